"""A recognizer whose words are written into the audio, so that what is expected is known."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mvqkd.decoding import Hypothesis
from mvqkd.geometry import SAMPLE_RATE

NUMBER = 200
"""Words that there are."""
STEP = 1 / 256
"""Amplitude of word 1; that of word n is n times as large."""


def utter(words: Sequence[int], gaps: Sequence[float], seconds: float = 0.2) -> np.ndarray:
    """Audio of words, with a gap of silence (seconds) before each of them and one at the end."""
    parts = [np.zeros(round(gaps[0] * SAMPLE_RATE))]
    for word, gap in zip(words, gaps[1:], strict=True):
        parts += [np.full(round(seconds * SAMPLE_RATE), word * STEP)]
        parts += [np.zeros(round(gap * SAMPLE_RATE))]
    return np.concatenate(parts).astype(np.float32)


class Written:
    """Recognizes words that lie whole in its input. Those nearer than `unsure` seconds to
    an edge of it are taken for others."""

    streams = False
    tokens = ["<blk>", *(f"▁W{number}" for number in range(1, NUMBER + 1)), "▁WRONG"]  # noqa: RUF012

    def __init__(self, unsure: float = 0.0) -> None:
        self.unsure = unsure
        self.lens: list[int] = []
        """Samples of all inputs."""
        self.batches: list[int] = []

    def recognize(self, waves: Sequence[NDArray[np.float32]]) -> list[Hypothesis]:
        self.lens += [len(wave) for wave in waves]
        self.batches.append(max(map(len, waves), default=0) * len(waves))
        return [self._one(wave) for wave in waves]

    def sessions(self):
        raise AssertionError("it does not stream")

    def _one(self, wave: NDArray[np.float32]) -> Hypothesis:
        found = Hypothesis([], [], 0.0)
        edges = np.flatnonzero(np.diff(wave)) + 1
        for begin, end in itertools.pairwise(edges):
            value = round(float(wave[begin]) / STEP)
            if value == 0:
                continue
            near = min(begin, len(wave) - end) < self.unsure * SAMPLE_RATE
            found.tokens.append(NUMBER + 1 if near else value)
            found.frames.append(int((begin + end) / 2 / SAMPLE_RATE * 25))
            found.log_probs.append(-0.1)
        return found
