from __future__ import annotations

import numpy as np
import pytest

from mvqkd.data.synthetic import acoustics


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def tone(frequency: float, rate: int, seconds: float = 1.0) -> np.ndarray:
    times = np.arange(int(seconds * rate)) / rate
    window = np.clip(np.minimum(times, times[-1] - times) / 0.1, 0, 1)
    return window * np.sin(2 * np.pi * frequency * times)


@pytest.mark.parametrize("frequency", [100.0, 1000.0, 6500.0])
def test_resampling_keeps_what_fits(frequency):
    expected = tone(frequency, 16000)
    resampled = acoustics.resample(tone(frequency, 22050), 22050)
    assert abs(len(resampled) - len(expected)) <= 320
    np.testing.assert_allclose(resampled[1000:15000], expected[1000:15000], atol=2e-3)


def test_resampling_removes_what_does_not_fit():
    assert np.abs(acoustics.resample(tone(9000, 22050), 22050)).max() < 1e-3


def test_resampling_agrees_with_torchaudio():
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("torchaudio").functional
    wave = sum(tone(f, 22050) for f in (200.0, 900.0, 3000.0, 5000.0))
    theirs = functional.resample(
        torch.from_numpy(wave), 22050, 16000, lowpass_filter_width=64, rolloff=0.99
    ).numpy()
    ours = acoustics.resample(wave, 22050)[: len(theirs)]
    np.testing.assert_allclose(ours, theirs[: len(ours)], atol=5e-3)


def test_trim_keeps_a_margin_round_the_speech():
    wave = np.zeros(16000)
    wave[5000:9000] = 0.5
    assert len(acoustics.trim(wave)) == pytest.approx(4000 + 2 * 320, abs=1)


def test_convolution_is_the_convolution(rng):
    wave, response = rng.standard_normal(500), rng.standard_normal(60)
    expected = np.convolve(wave, response)[:500]
    np.testing.assert_allclose(acoustics.convolve(wave, response), expected, atol=1e-10)


def test_rooms_begin_with_the_direct_sound_and_decay_by_60_db(rng):
    for _ in range(20):
        response = acoustics.room(rng)
        assert response[0] == 1.0 and len(response) / 16000 < 0.32
        ratio = -10 * np.log10(np.square(response[1:]).sum())
        assert 3 <= ratio <= 15
        tail = response[np.flatnonzero(response[1:])[0] + 1 :]
        size = len(tail) // 10
        decay = np.square(tail[:size]).mean() / np.square(tail[-size:]).mean()
        # nine tenths of 60 dB between the middles of the first and the last tenth
        assert 10 * np.log10(decay) == pytest.approx(54, abs=4)


@pytest.mark.parametrize("snr_db", [0.0, 10.0, 25.0])
def test_noise_is_added_at_the_ratio(rng, snr_db):
    # half of the wave is silence, which must not count
    wave = np.concatenate([np.zeros(16000), 0.1 * rng.standard_normal(16000)])
    noise = acoustics.colored_noise(rng, 32000)
    added = acoustics.add_noise(wave, noise, snr_db) - wave
    ratio = np.square(wave[16000:]).mean() / np.square(added).mean()
    assert 10 * np.log10(ratio) == pytest.approx(snr_db, abs=0.1)


def test_level_is_set_without_clipping(rng):
    quiet = acoustics.set_level(rng.standard_normal(16000), -30)
    assert 10 * np.log10(acoustics.active_power(quiet)) == pytest.approx(-30, abs=0.01)
    assert np.abs(acoustics.set_level(rng.standard_normal(16000), -3)).max() <= 0.95 + 1e-9


def test_babble_and_hum_have_the_length_asked_for(rng):
    voices = [rng.standard_normal(3000), rng.standard_normal(9000)]
    assert len(acoustics.babble(rng, voices, 7000)) == 7000
    assert len(acoustics.hum(rng, 7001)) == 7001


def test_hum_is_at_the_mains_frequency(rng):
    spectrum = np.abs(np.fft.rfft(acoustics.hum(rng, 160000)))
    strongest = np.fft.rfftfreq(160000, 1 / 16000)[spectrum.argmax()]
    assert strongest % 50 == pytest.approx(0, abs=0.2) or strongest % 60 == pytest.approx(
        0, abs=0.2
    )
