"""Word and character error rates."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import kaldialign

GAP = "*"
"""Marks, in an alignment, the place of a word that one side does not have."""


class Transcript(NamedTuple):
    """Reference and hypothesis of an utterance."""

    id: str
    reference: list[str]
    hypothesis: list[str]


class ErrorCounts(NamedTuple):
    """Errors of an utterance or a corpus."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    words: int = 0
    """Words of the reference."""

    @property
    def errors(self) -> int:
        """All errors."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def wer(self) -> float:
        """Word error rate in percent; nan without reference words."""
        if self.words == 0:
            return math.nan
        return 100.0 * self.errors / self.words


Alignment = list[tuple[str | None, str | None]]
"""Pairs of a reference word and a recognized word; None on the left is an insertion, on the right
a deletion."""


@dataclass
class WordCounts:
    """What became of one word; icefall's per-word statistics."""

    correct: int = 0
    substituted: int = 0
    """Times it was said and another word recognized."""
    mistaken: int = 0
    """Times it was recognized and another word said."""
    inserted: int = 0
    deleted: int = 0

    @property
    def errors(self) -> int:
        """All errors that the word has to do with."""
        return self.substituted + self.mistaken + self.inserted + self.deleted

    @property
    def in_reference(self) -> int:
        """Times it was said."""
        return self.correct + self.substituted + self.deleted

    @property
    def in_hypothesis(self) -> int:
        """Times it was recognized."""
        return self.correct + self.mistaken + self.inserted


@dataclass
class Score:
    """Errors of a corpus in all detail, utterances sorted by id."""

    transcripts: list[Transcript]
    alignments: list[Alignment]
    utterances: list[ErrorCounts]
    substitutions: Counter[tuple[str, str]] = field(default_factory=Counter)
    deletions: Counter[str] = field(default_factory=Counter)
    insertions: Counter[str] = field(default_factory=Counter)
    words: dict[str, WordCounts] = field(default_factory=dict)

    @property
    def total(self) -> ErrorCounts:
        """Sums over the utterances."""
        if not self.utterances:
            return ErrorCounts()
        return ErrorCounts(*(sum(column) for column in zip(*self.utterances, strict=True)))


def align(reference: Sequence[str], hypothesis: Sequence[str]) -> Alignment:
    """Align words with the fewest errors, each of cost 1 (kaldialign)."""
    # Words become numbers: whatever the words are, none can be mistaken for the mark of a gap.
    numbers: dict[str, int] = {}
    left = [numbers.setdefault(word, len(numbers)) for word in reference]
    right = [numbers.setdefault(word, len(numbers)) for word in hypothesis]
    names = list(numbers)
    return [
        (None if a < 0 else names[a], None if b < 0 else names[b])
        for a, b in kaldialign.align(left, right, -1)
    ]


def score(transcripts: Iterable[Transcript]) -> Score:
    """Count the errors of a corpus.

    Raises:
        ValueError: a transcript is a string, whose characters would count as words.
    """
    transcripts = list(transcripts)
    for transcript in transcripts:
        if isinstance(transcript.reference, str) or isinstance(transcript.hypothesis, str):
            raise ValueError(f"transcripts are lists of words, that of {transcript.id} is a string")
    result = Score(sorted(transcripts), [], [])
    for transcript in result.transcripts:
        alignment = align(transcript.reference, transcript.hypothesis)
        result.alignments.append(alignment)
        result.utterances.append(_count(alignment, result))
    return result


def spelled(transcripts: Iterable[Transcript]) -> Iterator[Transcript]:
    """Transcripts by characters, with a space between words: `score` then counts characters, and
    `ErrorCounts.wer` is a character error rate."""
    for transcript in transcripts:
        yield Transcript(
            transcript.id,
            list(" ".join(transcript.reference)),
            list(" ".join(transcript.hypothesis)),
        )


def log_line(key: str, counts: ErrorCounts) -> str:
    """`[test-clean-greedy_search] %WER 2.27% [1194 / 52576, 130 ins, 98 del, 966 sub ]`."""
    return (
        f"[{key}] %WER {counts.wer:.2f}% [{counts.errors} / {counts.words}, "
        f"{counts.insertions} ins, {counts.deletions} del, {counts.substitutions} sub ]"
    )


def _count(alignment: Alignment, result: Score) -> ErrorCounts:
    substitutions = deletions = insertions = 0
    for reference, hypothesis in alignment:
        if reference is None:
            assert hypothesis is not None
            insertions += 1
            result.insertions[hypothesis] += 1
            result.words.setdefault(hypothesis, WordCounts()).inserted += 1
        elif hypothesis is None:
            deletions += 1
            result.deletions[reference] += 1
            result.words.setdefault(reference, WordCounts()).deleted += 1
        elif reference != hypothesis:
            substitutions += 1
            result.substitutions[reference, hypothesis] += 1
            result.words.setdefault(reference, WordCounts()).substituted += 1
            result.words.setdefault(hypothesis, WordCounts()).mistaken += 1
        else:
            result.words.setdefault(reference, WordCounts()).correct += 1
    words = sum(reference is not None for reference, _ in alignment)
    return ErrorCounts(substitutions, deletions, insertions, words)
