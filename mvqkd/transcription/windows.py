"""Long audio for a model that attends to its whole input: windows that overlap, and their words
joined."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mvqkd.geometry import SAMPLE_RATE, SHIFT_SAMPLES
from mvqkd.transcription.transcript import Word

INAUDIBLE = 2.0**-12
"""Largest sample of a window that is not decoded: 8 steps of 16 bits, 72 dB below full scale."""
_PAUSE_FRAMES = 20
"""Frames of 10 ms of the stretch that a cut is in the middle of."""
_SAME = 0.5
"""Seconds by which two windows may differ about the time of a word."""


@dataclass(frozen=True)
class WindowRule:
    """How long audio is divided; seconds."""

    shortest: float = 13.0
    """Audio between two cuts, at least."""
    longest: float = 26.0
    """At most."""
    margin: float = 2.0
    """Context that a window has beyond its cuts."""


WINDOWS = WindowRule()


@dataclass
class Window:
    """A part of the audio with context on both sides."""

    samples: NDArray[np.float32]
    """(S,) at 16 kHz."""
    begin: int
    """Sample of the audio at which it begins."""
    cut: int
    """Sample of the audio at which the next window takes over."""
    is_last: bool = False

    @property
    def is_silent(self) -> bool:
        """Whether nothing can be heard in it."""
        return not len(self.samples) or float(np.abs(self.samples).max()) <= INAUDIBLE


def windows(blocks: Iterable[NDArray[np.float32]], rule: WindowRule) -> Iterator[Window]:
    """Windows of audio, cut where it is most quiet. What fits into one window is one.

    Args:
        blocks: samples (S,) at 16 kHz, of any sizes; a window and a block are held in memory.
        rule: sizes.
    """
    shortest, longest, margin = (
        round(seconds * SAMPLE_RATE) for seconds in (rule.shortest, rule.longest, rule.margin)
    )
    held = np.zeros(0, dtype=np.float32)
    base, cut = 0, 0  # samples before `held`, and at which the next window takes over
    for block in blocks:
        held = np.concatenate([held, block])
        while base + len(held) > cut + longest + margin:
            begin = cut - base
            following = cut + shortest + quietest(held[begin + shortest : begin + longest])
            window = held[max(0, begin - margin) : following - base + margin]
            yield Window(window, max(base, cut - margin), following)
            cut = following
            held = held[max(0, cut - margin - base) :]
            base = max(base, cut - margin)
    yield Window(held, base, base + len(held), is_last=True)


def quietest(samples: NDArray[np.float32]) -> int:
    """The middle of the 200 ms with the least energy, in samples."""
    frames = len(samples) // SHIFT_SAMPLES
    if frames <= _PAUSE_FRAMES:
        return len(samples) // 2
    shaped = samples[: frames * SHIFT_SAMPLES].reshape(frames, SHIFT_SAMPLES)
    energies = np.einsum("fs,fs->f", shaped, shaped, dtype=np.float64)
    stretches = np.convolve(energies, np.ones(_PAUSE_FRAMES), mode="valid")
    # The last of equal ones: windows are as long as they may be.
    last = len(stretches) - 1 - int(stretches[::-1].argmin())
    return (last + _PAUSE_FRAMES // 2) * SHIFT_SAMPLES


class Joiner:
    """Words of one window after the other, each word once.

    Two windows both decode what lies within their margins around a cut. They are joined at the
    word nearest to the cut that both have found, else at the cut.
    """

    def __init__(self, rule: WindowRule) -> None:
        self._margin = rule.margin
        self._tail: list[Word] = []
        self._cut = 0.0  # seconds: of the window before
        self._end = 0.0  # seconds: of the last word that was given out

    def add(self, window: Window, words: list[Word]) -> list[Word]:
        """Words that are settled.

        Args:
            window: the next one.
            words: what was recognized in it, with times from the beginning of the audio.
        """
        joined = self._join(words) if window.begin else words
        self._cut = window.cut / SAMPLE_RATE
        if window.is_last:
            return self._ordered(joined)
        open_from = self._cut - self._margin
        settled = [word for word in joined if _middle(word) < open_from]
        self._tail = joined[len(settled) :]
        return self._ordered(settled)

    def _join(self, head: list[Word]) -> list[Word]:
        tail, cut = self._tail, self._cut
        zone = (cut - self._margin, cut + self._margin)
        same = [
            (abs(_middle(left) + _middle(right) - 2 * cut), i, j)
            for i, left in enumerate(tail)
            for j, right in enumerate(head)
            if left.text == right.text
            and abs(_middle(left) - _middle(right)) <= _SAME
            and zone[0] <= _middle(right) <= zone[1]
        ]
        if same:
            _, i, j = min(same)
            return [*tail[: i + 1], *head[j + 1 :]]
        return [
            *(word for word in tail if _middle(word) < cut),
            *(word for word in head if _middle(word) >= cut),
        ]

    def _ordered(self, words: list[Word]) -> list[Word]:
        """No word begins before the one before it has ended."""
        ordered = []
        for word in words:
            start = max(word.start, self._end)
            self._end = max(word.end, start)
            ordered.append(replace(word, start=start, end=self._end))
        return ordered


def _middle(word: Word) -> float:
    return (word.start + word.end) / 2
