"""Rooms, noises and levels for the synthetic corpus. Waveforms are float64 arrays (samples,) with
full scale 1; `rng` is the only source of randomness."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mvqkd.geometry import SAMPLE_RATE

Wave = NDArray[np.float64]

_LOUDEST = 0.95


def resample(wave: Wave, rate: int, target: int = SAMPLE_RATE) -> Wave:
    """Change the sampling rate (Hz) by cutting the spectrum off at the lower Nyquist frequency.

    The topmost 5 % of the band are faded out, which keeps clicks from ringing. The wave is taken as
    periodic, so it should begin and end in silence.
    """
    common = int(np.gcd(rate, target))
    blocks = -(-len(wave) // (rate // common))
    padded = np.pad(wave, (0, blocks * (rate // common) - len(wave)))
    length = blocks * (target // common)
    spectrum = np.fft.rfft(padded)
    kept = np.zeros(length // 2 + 1, dtype=complex)
    size = min(len(kept), len(spectrum))
    kept[:size] = spectrum[:size]
    edge = max(size // 20, 1)
    kept[size - edge : size] *= np.cos(np.linspace(0, np.pi / 2, edge)) ** 2
    return np.fft.irfft(kept, length) * (length / len(padded))


def trim(wave: Wave, threshold_db: float = -45.0, rate: int = SAMPLE_RATE) -> Wave:
    """Cut leading and trailing samples that are below `threshold_db` against the peak, but for
    20 ms."""
    loud = np.flatnonzero(np.abs(wave) > np.abs(wave).max() * 10 ** (threshold_db / 20))
    margin = rate // 50
    return wave[max(loud[0] - margin, 0) : loud[-1] + margin]


def active_power(wave: Wave, rate: int = SAMPLE_RATE) -> float:
    """Mean power over the frames of 20 ms that are within 30 dB of the loudest."""
    size = rate // 50
    powers = np.square(wave[: len(wave) // size * size]).reshape(-1, size).mean(axis=1)
    return float(powers[powers >= powers.max() * 1e-3].mean())


def room(rng: np.random.Generator, rate: int = SAMPLE_RATE) -> Wave:
    """Draw a room impulse response: the direct sound, then exponentially decaying noise.

    Reverberation time 0.1 to 0.3 s (60 dB), direct-to-reverberant ratio 3 to 15 dB, first
    reflection after 1 to 8 ms.
    """
    reverberation = rng.uniform(0.1, 0.3)
    times = np.arange(int(reverberation * rate)) / rate
    tail = rng.standard_normal(len(times)) * np.exp(-np.log(1000) * times / reverberation)
    tail *= 10 ** (-rng.uniform(3, 15) / 20) / np.sqrt(np.square(tail).sum())
    return np.concatenate([[1.0], np.zeros(int(rng.uniform(0.001, 0.008) * rate)), tail])


def convolve(wave: Wave, response: Wave) -> Wave:
    """Convolve, and keep the length of `wave`."""
    size = 1 << (len(wave) + len(response) - 1).bit_length()
    product = np.fft.rfft(wave, size) * np.fft.rfft(response, size)
    return np.fft.irfft(product, size)[: len(wave)]


def colored_noise(rng: np.random.Generator, length: int, rate: int = SAMPLE_RATE) -> Wave:
    """Draw noise whose power falls with frequency as f^-a above 100 Hz, a from 0 (white) to 2
    (brown)."""
    size = 1 << (length - 1).bit_length()
    frequencies = np.maximum(np.fft.rfftfreq(size, 1 / rate), 100.0)
    spectrum = np.fft.rfft(rng.standard_normal(size)) * frequencies ** (-rng.uniform(0, 2) / 2)
    return np.fft.irfft(spectrum, size)[:length]


def hum(rng: np.random.Generator, length: int, rate: int = SAMPLE_RATE) -> Wave:
    """Draw the hum of a mains of 50 or 60 Hz: eight harmonics of random strength and phase, over
    coloured noise 10 dB below."""
    times = np.arange(length) / rate
    base = rng.choice([50.0, 60.0])
    wave = np.zeros(length)
    for harmonic in range(1, 9):
        phase = rng.uniform(0, 2 * np.pi)
        wave += rng.uniform() * np.sin(2 * np.pi * base * harmonic * times + phase)
    return add_noise(wave, colored_noise(rng, length, rate), snr_db=10.0)


def babble(rng: np.random.Generator, voices: list[Wave], length: int) -> Wave:
    """Mix waves, each repeated from a random place on, at strengths that differ by up to 6 dB."""
    mixed = np.zeros(length)
    for voice in voices:
        start = int(rng.integers(len(voice)))
        again = np.resize(np.roll(voice, -start), length)
        mixed += again * 10 ** (rng.uniform(-6, 0) / 20) / np.sqrt(active_power(voice))
    return mixed


def add_noise(wave: Wave, noise: Wave, snr_db: float) -> Wave:
    """Add noise at a ratio of the wave's active power to the noise's mean power."""
    gain = np.sqrt(active_power(wave) / np.square(noise).mean() * 10 ** (-snr_db / 10))
    return wave + gain * noise


def set_level(wave: Wave, level_db: float) -> Wave:
    """Scale to an active power of `level_db` against full scale, or less where that would clip."""
    wave = wave * np.sqrt(10 ** (level_db / 10) / active_power(wave))
    return wave * min(1.0, _LOUDEST / np.abs(wave).max())
