from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from lhotse import Fbank
from lhotse.features.mixer import FeatureMixer

from mvqkd.data.loading.noise import NoiseMixer, mix
from mvqkd.features.fbank import extract


@pytest.mark.parametrize("snr", [-5.0, 0.0, 15.0])
def test_mixes_as_lhotse(snr: float) -> None:
    random = np.random.default_rng(0)
    features = random.normal(-6, 3, (200, 80)).astype(np.float32)
    noise = random.normal(-9, 2, (200, 80)).astype(np.float32)
    mixer = FeatureMixer(Fbank(), features, frame_shift=0.01)
    mixer.add_to_mix(noise, sampling_rate=16000, snr=snr)
    np.testing.assert_allclose(mix(features, noise, snr), mixer.mixed_feats, rtol=1e-4, atol=1e-4)


def test_is_the_ratio_of_energies() -> None:
    random = np.random.default_rng(0)
    features = random.normal(-6, 3, (200, 80)).astype(np.float32)
    noise = random.normal(-9, 2, (200, 80)).astype(np.float32)
    added = np.exp(mix(features, noise, 10.0), dtype=np.float64) - np.exp(features)
    ratio = 10 * np.log10(np.exp(features).sum(dtype=np.float64) / added.sum())
    assert ratio == pytest.approx(10.0, abs=0.01)


def test_equals_mixing_waveforms_in_expectation() -> None:
    # Independent signals: energies add, up to cross terms that vary from bin to bin.
    random = np.random.default_rng(0)
    speech = random.standard_normal(32000).astype(np.float32) * 0.1
    noise = random.standard_normal(32000).astype(np.float32) * 0.1
    mixed = mix(extract(speech), extract(noise), 0.0)
    assert np.exp(mixed).mean() == pytest.approx(np.exp(extract(speech + noise)).mean(), rel=0.03)


def mixer(prepared: Path, **options: float) -> NoiseMixer:
    settings = {"probability": 1.0, "snr": (10.0, 20.0), "seed": 1} | options
    return NoiseMixer(prepared / "fbank/tiny_cuts_dev-a.jsonl.gz", **settings)


def test_is_a_function_of_seed_epoch_and_utterance(prepared: Path) -> None:
    features = np.random.default_rng(0).normal(-6, 3, (500, 80)).astype(np.float32)
    first = mixer(prepared)(features, "a", 1)
    np.testing.assert_array_equal(first, mixer(prepared)(features, "a", 1))
    assert first.shape == features.shape
    assert first.dtype == np.float32
    # Nothing is lost: energies only grow.
    assert (first >= features - 1e-4).all()
    for changed in (
        mixer(prepared)(features, "a", 2),
        mixer(prepared)(features, "b", 1),
        mixer(prepared, seed=2)(features, "a", 1),
    ):
        assert not np.array_equal(first, changed)


def test_probability(prepared: Path) -> None:
    features = np.full((20, 80), -6.0, np.float32)
    add_noise = mixer(prepared, probability=0.5)
    noisy = [add_noise(features, f"u{i}", 1) is not features for i in range(300)]
    assert np.mean(noisy) == pytest.approx(0.5, abs=0.12)
    assert mixer(prepared, probability=0.0)(features, "a", 1) is features
