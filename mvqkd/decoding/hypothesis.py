"""What a search finds, and how it remembers it between chunks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass
class Hypothesis:
    """One transcript of one utterance."""

    tokens: list[int]
    """Token ids, without blanks."""
    frames: list[int]
    """The encoder frame (25 Hz, from the beginning of the utterance) that emitted each token; empty
    where the search knows none."""
    score: float
    """Log-probability."""
    log_probs: list[float] = field(default_factory=list)
    """Log-probability of each token at its frame, after the tokens before it."""
    finished: bool = True
    """Whether it has an end: searches of attention decoders may reach their limit of tokens."""


class History(NamedTuple):
    """Tokens emitted so far, chunk by chunk, newest first.

    Hypotheses that diverge in the last chunk share everything before it, so a stream costs memory
    and time in proportion to what is new, however old it is.
    """

    before: History | None
    tokens: list[int]
    frames: list[int]
    log_probs: list[float]

    @staticmethod
    def extend(
        before: History | None, tokens: list[int], frames: list[int], log_probs: list[float]
    ) -> History | None:
        """`before` and then what a chunk emitted, which may be nothing."""
        return History(before, tokens, frames, log_probs) if tokens else before


def hypothesis(history: History | None, score: float) -> Hypothesis:
    """All tokens with their frames and log-probabilities, oldest first."""
    chunks = []
    while history is not None:
        chunks.append(history)
        history = history.before
    tokens = [token for chunk in reversed(chunks) for token in chunk.tokens]
    frames = [frame for chunk in reversed(chunks) for frame in chunk.frames]
    log_probs = [value for chunk in reversed(chunks) for value in chunk.log_probs]
    return Hypothesis(tokens, frames, score, log_probs)
