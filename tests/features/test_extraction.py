"""Spectrograms, against torchaudio's and against their definition."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from mvqkd.features.extraction import extract
from mvqkd.features.kinds import kind_of_bins, kind_of_cut
from mvqkd.geometry import DIGITAL_SILENCE, num_features


@pytest.mark.parametrize("num_samples", [16000, 16079, 16080, 4321])
def test_equals_torchaudios(make_speech: Callable[..., np.ndarray], num_samples: int) -> None:
    kaldi = pytest.importorskip("torchaudio.compliance.kaldi")
    samples = make_speech(2.0, seed=1)[:num_samples]
    theirs = kaldi.spectrogram(
        torch.from_numpy(samples)[None],
        frame_length=20.0,
        window_type="hanning",
        round_to_power_of_two=False,
        preemphasis_coefficient=0.0,
        remove_dc_offset=False,
        snip_edges=False,
    ).numpy()
    ours = extract(samples, "spectrogram")
    assert ours.shape == theirs.shape == (num_features(num_samples), 161)
    # Kaldi has the energy of the frame in place of the power of the lowest bin.
    np.testing.assert_allclose(ours[:, 1:], theirs[:, 1:], atol=2e-3)


def test_is_the_power_of_hann_windows(make_speech: Callable[..., np.ndarray]) -> None:
    samples = make_speech(1.0, seed=2)
    features = extract(samples, "spectrogram")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(320) / 319)
    for frame in (1, 40, 98):
        begin = 160 * frame - 80  # centred at 160 t + 80
        power = np.abs(np.fft.rfft(samples[begin : begin + 320] * window)) ** 2
        np.testing.assert_allclose(features[frame], np.log(power), atol=1e-2)


def test_a_tone_is_in_its_bin() -> None:
    time = np.arange(16000) / 16000
    features = extract(np.sin(2 * np.pi * 1000 * time).astype(np.float32), "spectrogram")
    assert (features[5:-5].argmax(1) == 20).all()  # 50 Hz a bin


def test_silence_is_at_the_floor_of_filterbanks() -> None:
    silence = np.zeros(8000, np.float32)
    for kind in ("fbank", "spectrogram"):
        np.testing.assert_allclose(extract(silence, kind), DIGITAL_SILENCE, atol=1e-4)


def test_is_the_same_under_autocast(make_speech: Callable[..., np.ndarray]) -> None:
    samples = make_speech(1.0, seed=3)
    features = extract(samples, "spectrogram")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        np.testing.assert_array_equal(extract(samples, "spectrogram"), features)


def test_cuts_and_models_tell_their_kind() -> None:
    assert kind_of_cut({"id": "a"}) == kind_of_cut({"custom": None}) == "fbank"
    assert kind_of_cut({"custom": {"feature_kind": "spectrogram"}}) == "spectrogram"
    # Of others' toolkits, too.
    assert kind_of_cut({"features": {"type": "kaldifeat-fbank"}}) == "fbank"
    assert (kind_of_bins(80), kind_of_bins(161)) == ("fbank", "spectrogram")
    with pytest.raises(ValueError, match="no features of 40 bins"):
        kind_of_bins(40)
