"""Long audio for a model that attends to its whole input: windows with one utterance each, or with
parts of a long one that overlap, and their words joined."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mvqkd.geometry import SAMPLE_RATE, SHIFT_SAMPLES
from mvqkd.transcription.pauses import PAUSES, Part, PauseRule, Utterances
from mvqkd.transcription.transcript import Word

INAUDIBLE = 2.0**-12
"""Largest sample of a window that is not decoded: 8 steps of 16 bits, 72 dB below full scale."""
_PAUSE_FRAMES = 20
"""Frames of 10 ms of the stretch that a cut is in the middle of."""
_SAME = 0.5
"""Seconds by which two windows may differ about the time of a word."""


@dataclass(frozen=True)
class WindowRule:
    """How a long utterance is divided; seconds."""

    shortest: float = 13.0
    """Audio between two cuts, at least."""
    longest: float = 26.0
    """At most."""
    margin: float = 2.0
    """Context that a window has beyond its cuts."""


WINDOWS = WindowRule()


@dataclass
class Window:
    """An utterance, or a part of one with context on both sides."""

    samples: NDArray[np.float32]
    """(S,) at 16 kHz."""
    begin: int
    """Sample of the audio at which it begins."""
    cut: int
    """Sample of the audio at which the next window takes over."""
    is_end: bool = False
    """Whether an utterance ends with it: the next window does not overlap with it."""
    is_last: bool = False
    """Whether the audio ends with it; such a window is empty."""

    @property
    def is_silent(self) -> bool:
        """Whether nothing can be heard in it."""
        return not len(self.samples) or float(np.abs(self.samples).max()) <= INAUDIBLE


def windows(
    blocks: Iterable[NDArray[np.float32]], rule: WindowRule, pauses: PauseRule | None = PAUSES
) -> Iterator[Window]:
    """Windows of audio: one for each utterance; long ones are cut where they are most quiet.

    Args:
        blocks: samples (S,) at 16 kHz, of any sizes; a window and a block are held in memory.
        rule: sizes.
        pauses: what separates utterances; None: all audio is one.
    """
    utterances, total = Utterances(pauses), 0
    long = _LongUtterance(rule, utterances.undecided)
    for block in blocks:
        total += len(block)
        for part in utterances.accept(block):
            yield from long.accept(part)
    for part in utterances.finish():
        yield from long.accept(part)
    yield Window(np.zeros(0, dtype=np.float32), total, total, is_end=True, is_last=True)


class _LongUtterance:
    """Parts of utterances -> windows."""

    def __init__(self, rule: WindowRule, undecided: int) -> None:
        self._shortest, self._longest, self._margin = (
            round(seconds * SAMPLE_RATE) for seconds in (rule.shortest, rule.longest, rule.margin)
        )
        self._undecided = undecided

    def accept(self, part: Part) -> Iterator[Window]:
        """The windows that a part completes."""
        if part.begins:
            self._held, self._base, self._cut = part.samples, part.start, part.start
        else:
            self._held = np.concatenate([self._held, part.samples])
        if part.quiet:
            self._held = self._held[: -part.quiet]
        margin, undecided = self._margin, 0 if part.ends else self._undecided
        longest = self._longest + margin + undecided
        while self._base + len(self._held) > self._cut + longest:
            begin = self._cut - self._base
            choice = self._held[begin + self._shortest : begin + self._longest]
            following = self._cut + self._shortest + quietest(choice)
            window = self._held[: following - self._base + margin]
            yield Window(window, self._base, following)
            self._cut, base = following, following - margin
            self._held, self._base = self._held[base - self._base :], base
        if part.ends:
            yield Window(self._held, self._base, self._base + len(self._held), is_end=True)


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
        self._overlaps = False  # the window before with the next one

    def add(self, window: Window, words: list[Word]) -> list[Word]:
        """Words that are settled.

        Args:
            window: the next one.
            words: what was recognized in it, with times from the beginning of the audio.
        """
        joined = self._join(words) if self._overlaps else words
        self._overlaps = not window.is_end
        self._cut = window.cut / SAMPLE_RATE
        if window.is_end:
            self._tail = []
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
