"""Words with times and confidences, made of the tokens of a search."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mvqkd.decoding.hypothesis import Hypothesis
from mvqkd.geometry import ENCODER_RATE

_SPACE = "▁"
"""sentencepiece's mark of a space in tokens."""
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Emission(NamedTuple):
    """One token of a stream."""

    token: int
    frame: int
    """Of the encoder (25 Hz), from the beginning of the audio."""
    log_prob: float
    begins: bool = False
    """Whether an utterance begins with it, and so a word, however it is spelled."""


@dataclass
class Word:
    """One word.

    Times are those at which the search emitted its tokens. A transducer is free to emit a token
    some frames before or after its sound, and a streaming one emits later.
    """

    text: str
    start: float
    """Seconds: where the frame of its first token begins."""
    end: float
    """Seconds: where the frame of its last token ends."""
    confidence: float
    """Product of the probabilities of its tokens, each at its frame and after those before it."""


@dataclass
class Segment:
    """Words between two pauses."""

    words: list[Word]

    @property
    def text(self) -> str:
        """The words, with spaces between them."""
        return " ".join(word.text for word in self.words)

    @property
    def start(self) -> float:
        """Seconds."""
        return self.words[0].start

    @property
    def end(self) -> float:
        """Seconds."""
        return self.words[-1].end

    @property
    def confidence(self) -> float:
        """Mean of the words'."""
        return sum(word.confidence for word in self.words) / len(self.words)


@dataclass
class Transcript:
    """Of one file or stream."""

    source: str
    duration: float
    """Seconds of audio."""
    segments: list[Segment] = field(default_factory=list)

    @property
    def words(self) -> list[Word]:
        """Of all segments."""
        return [word for segment in self.segments for word in segment.words]

    @property
    def text(self) -> str:
        """Of all segments, with spaces between them."""
        return " ".join(segment.text for segment in self.segments)


def emissions(hypothesis: Hypothesis, frame: int = 0) -> list[Emission]:
    """Tokens of a hypothesis whose audio begins at an encoder frame."""
    log_probs = hypothesis.log_probs or [0.0] * len(hypothesis.tokens)
    return [
        Emission(token, frame + at, log_prob)
        for token, at, log_prob in zip(hypothesis.tokens, hypothesis.frames, log_probs, strict=True)
    ]


def begins_word(piece: str) -> bool:
    """Whether a token begins with a space."""
    return piece.startswith(_SPACE)


def words_of(found: Iterable[Emission], tokens: Sequence[str]) -> list[Word]:
    """Words of tokens in the order of their frames.

    Args:
        found: what was emitted.
        tokens: token of each id; a word begins where `▁` is. `<0x41>` is a byte of UTF-8.
    """
    groups: list[list[Emission]] = []
    for emission in found:
        if not groups or emission.begins or begins_word(tokens[emission.token]):
            groups.append([])
        groups[-1].append(emission)
    # A token that is nothing but a space begins a word; without more it is none.
    return [word for word in (_word(group, tokens) for group in groups) if word.text]


def segments_of(words: Iterable[Word], pause: float) -> list[Segment]:
    """Segments of words: a new one begins after a pause of so many seconds."""
    segments: list[Segment] = []
    for word in words:
        if not segments or word.start - segments[-1].end >= pause:
            segments.append(Segment([]))
        segments[-1].words.append(word)
    return segments


def _word(group: list[Emission], tokens: Sequence[str]) -> Word:
    return Word(
        _spell([tokens[emission.token] for emission in group]),
        group[0].frame / ENCODER_RATE,
        (group[-1].frame + 1) / ENCODER_RATE,
        math.exp(min(0.0, sum(emission.log_prob for emission in group))),
    )


def _spell(pieces: Sequence[str]) -> str:
    """The text of tokens."""
    spelled = b"".join(
        bytes([int(byte[1], 16)]) if (byte := _BYTE.fullmatch(piece)) else piece.encode()
        for piece in pieces
    )
    return spelled.decode("utf-8", errors="replace").replace(_SPACE, " ").strip()
