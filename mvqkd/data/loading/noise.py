"""Mixing of noise into log-mel features (MUSAN: Snyder et al. 2015, arXiv 1510.08484)."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mvqkd.data.loading.index import open_index
from mvqkd.features.reading import load_features

_FLOOR = 1e-10


class NoiseMixer:
    """Adds noise at a random signal-to-noise ratio to some utterances.

    What is added is a function of (seed, epoch, utterance id) alone.

    Args:
        cuts_path: manifest of noises with features (`fbank/musan_cuts.jsonl.gz`).
        probability: that an utterance gets noise.
        snr: (lowest, highest) ratio in dB.
        seed: of all randomness.
    """

    def __init__(
        self, cuts_path: str | Path, *, probability: float, snr: tuple[float, float], seed: int
    ) -> None:
        self._index = open_index(cuts_path, None)
        self._probability = probability
        self._snr = snr
        self._seed = seed

    def __call__(
        self, features: NDArray[np.float32], utterance: str, epoch: int
    ) -> NDArray[np.float32]:
        """Features (T, C) with noise, or the same array when the utterance gets none."""
        key = f"{self._seed} {epoch} {utterance}".encode()
        random = np.random.default_rng(list(hashlib.sha256(key).digest()))
        if random.random() >= self._probability:
            return features
        snr = random.uniform(*self._snr)
        return mix(features, self._noise(len(features), random), snr)

    def _noise(self, num_frames: int, random: np.random.Generator) -> NDArray[np.float32]:
        """(num_frames, C): noises one after another, the first from a random frame on."""
        pieces: list[NDArray[np.float32]] = []
        missing = num_frames
        while missing > 0:
            cut = self._index.cut(int(random.integers(len(self._index))))
            noise = load_features(cut, self._index.source)
            if not pieces:
                noise = noise[random.integers(max(1, len(noise) - num_frames + 1)) :]
            pieces.append(noise[:missing])
            missing -= len(pieces[-1])
        return np.concatenate(pieces)


def mix(
    features: NDArray[np.float32], noise: NDArray[np.float32], snr: float
) -> NDArray[np.float32]:
    """Add the energies of log-mel matrices (T, C), the noise `snr` dB below the features."""
    signal, added = np.exp(features), np.exp(noise)
    gain = signal.sum(dtype=np.float64) / max(added.sum(dtype=np.float64), _FLOOR)
    gain *= 10 ** (-snr / 10)
    return np.log(np.maximum(signal + np.float32(gain) * added, _FLOOR))
