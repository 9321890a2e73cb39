"""N-best texts of one utterance: normalized, what is unusable left out, equal ones merged."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

REASONS = ("unfinished", "empty", "repetition", "improbable", "too many characters", "no speech")
"""For which hypotheses are left out."""


@dataclass(frozen=True)
class TextLimits:
    """What is taken for an invention or a repetition of a teacher, and not for a transcript
    (Radford et al. 2022, section 4.5, and the rate of characters)."""

    max_compression_ratio: float = 2.4
    """Bytes of the text to those that zlib makes of it: of a repetition many."""
    min_mean_log_prob: float = -1.0
    """Natural logarithm of the probability, per token of the teacher."""
    max_characters_per_second: float = 30.0
    """Of the normalized text; speech has about 15."""
    max_no_speech: float = 0.6
    """Probability that nothing is said, according to the teacher."""


@dataclass(frozen=True)
class Written:
    """A text as a teacher wrote it."""

    text: str
    log_prob: float
    length: int
    """Tokens of the teacher."""
    finished: bool = True


@dataclass
class StoredHypothesis:
    """One normalized text of an utterance."""

    text: str
    log_prob: float
    """Natural logarithm of the probability of all that was written and normalizes to this."""
    rank: int
    """From 1, in the order of the teacher's search."""
    length: int
    """Tokens of the teacher, of the best that normalizes to this."""
    written: list[str]
    """What normalizes to this, the best first."""
    tokens: list[int] = field(default_factory=list)
    """Of the student."""
    errors: int | None = None
    """Word errors against the transcript; None: there is none."""

    @property
    def confidence(self) -> float:
        """Geometric mean of the probabilities of the teacher's tokens, 0 to 1."""
        return min(1.0, math.exp(self.log_prob / max(1, self.length)))


@dataclass
class UtteranceHypotheses:
    """All that is stored of an utterance."""

    id: str
    seconds: float
    hypotheses: list[StoredHypothesis]
    """By rank; none: everything was left out."""
    left_out: list[dict[str, str]] = field(default_factory=list)
    """`text` and `reason` of each."""
    no_speech: float | None = None
    words: int | None = None
    """Of the transcript; None: there is none."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> UtteranceHypotheses:
        """From what `to_dict` gave."""
        hypotheses = [StoredHypothesis(**item) for item in values["hypotheses"]]
        return cls(**{**values, "hypotheses": hypotheses})


def compression_ratio(text: str) -> float:
    """Bytes of a text to those that zlib makes of it."""
    raw = text.encode()
    return len(raw) / len(zlib.compress(raw)) if raw else 0.0


def collect(
    utterance: str,
    seconds: float,
    written: Iterable[Written],
    *,
    normalize: Callable[[str], str],
    limits: TextLimits,
    no_speech: float | None = None,
) -> UtteranceHypotheses:
    """Normalize N-best texts, leave out what `limits` refuse, and merge equal ones.

    Probabilities of texts that become equal are added; the best of them gives rank and length.

    Args:
        utterance: its id.
        seconds: of audio.
        written: the best first.
        normalize: to what the student is trained on.
        limits: of what is taken for a transcript.
        no_speech: probability that nothing is said, if it is known.
    """
    merged: dict[str, StoredHypothesis] = {}
    left_out: list[dict[str, str]] = []
    for item in written:
        text = normalize(item.text)
        reason = _refusal(text, item, seconds, limits, no_speech)
        # A variant of a text that is taken may be improbable by itself.
        if reason == "improbable" and text in merged and not math.isnan(item.log_prob):
            reason = None
        if reason is not None:
            left_out.append({"text": item.text, "reason": reason})
        elif text in merged:
            known = merged[text]
            known.log_prob = _add(known.log_prob, item.log_prob)
            if item.text not in known.written:
                known.written.append(item.text)
        else:
            rank = len(merged) + 1
            merged[text] = StoredHypothesis(text, item.log_prob, rank, item.length, [item.text])
    return UtteranceHypotheses(utterance, seconds, list(merged.values()), left_out, no_speech)


def _refusal(
    text: str, item: Written, seconds: float, limits: TextLimits, no_speech: float | None
) -> str | None:
    """One of `REASONS`; None: it is taken."""
    # A loop that the search's limit ended is told as what it is.
    if compression_ratio(item.text) > limits.max_compression_ratio:
        return "repetition"
    if not item.finished:
        return "unfinished"
    if no_speech is not None and no_speech > limits.max_no_speech:
        return "no speech"
    if not text:
        return "empty"
    if not item.log_prob >= limits.min_mean_log_prob * max(1, item.length):
        return "improbable"
    if len(text) > limits.max_characters_per_second * seconds:
        return "too many characters"
    return None


def _add(a: float, b: float) -> float:
    """log(exp(a) + exp(b))."""
    high, low = max(a, b), min(a, b)
    return high + math.log1p(math.exp(low - high))
