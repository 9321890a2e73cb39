"""Resampling in pieces is that of the whole, as lhotse does it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from lhotse.augmentation.resample import resample

from mvqkd.features.online_resample import OnlineResample

RATES = [8000, 44100, 48000, 22050, 11025, 32000, 96000, 16000, 7919]


def in_pieces(samples: np.ndarray, sizes: list[int], rate: int) -> np.ndarray:
    online = OnlineResample(rate)
    bounds = np.cumsum([0, *sizes, len(samples)])
    parts = [online.accept(samples[a:b]) for a, b in itertools.pairwise(bounds)]
    return np.concatenate([*parts, online.finish()])


@pytest.mark.parametrize("rate", RATES)
def test_pieces_are_the_whole(rate: int) -> None:
    samples = np.random.default_rng(0).standard_normal(9001).astype(np.float32)
    whole = in_pieces(samples, [], rate)
    assert np.array_equal(in_pieces(samples, [1, 0, 5, 1000, 3, 4000], rate), whole)
    if rate == 7919:  # a prime: lhotse's filter would have 10^8 taps
        assert len(whole) == -(-9001 * 16000 // rate)
        return
    expected = resample(torch.from_numpy(samples).double(), rate, 16000).numpy()
    assert whole.shape == expected.shape
    assert np.abs(whole - expected).max() < 1e-5


@pytest.mark.parametrize("rate", [8000, 44100, 7919])
def test_a_tone_stays_a_tone(rate: int) -> None:
    samples = np.sin(2 * np.pi * 440 * np.arange(2 * rate) / rate).astype(np.float32)
    found = in_pieces(samples, [777], rate)
    expected = np.sin(2 * np.pi * 440 * np.arange(32000) / 16000)
    assert np.abs(found - expected)[100:-100].max() < 2e-3


@pytest.mark.parametrize("length", [0, 1, 3])
def test_short_signals(length: int) -> None:
    assert len(in_pieces(np.ones(length, np.float32), [], 8000)) == 2 * length
    assert len(in_pieces(np.ones(length, np.float32), [], 48000)) == -(-length // 3)


def test_rates_are_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        OnlineResample(0)
