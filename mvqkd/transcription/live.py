"""A stream that is recognized while it arrives, in segments that end at pauses.

Utterances are separated by short pauses, and each is a session of its own: a model begins with each
of them as in training. A segment is what is read together: it ends at longer pauses, or when it is
long.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mvqkd.geometry import ENCODER_RATE, SAMPLE_RATE, SHIFT_SAMPLES
from mvqkd.transcription.interface import LiveRecognizer
from mvqkd.transcription.pauses import FRAME, PAUSES, Part, PauseRule, Utterances
from mvqkd.transcription.transcript import Emission, Word, begins_word, emissions, words_of


@dataclass(frozen=True)
class EndpointRule:
    """Where a segment of a stream ends, as in sherpa-onnx: after a pause, or when it is long."""

    pause: float = 1.2
    """Seconds without a token that end a segment."""
    longest: float = 20.0
    """Seconds after which a segment ends before its last word, so that what is remembered of a
    stream without pauses is bounded."""


ENDPOINTS = EndpointRule()


@dataclass
class Update:
    """What a chunk has brought."""

    final: list[Emission] = field(default_factory=list)
    """Tokens of a segment that has ended; none: the segment goes on."""
    partial: list[Emission] = field(default_factory=list)
    """Tokens of the segment that goes on, so far."""


@dataclass
class _Utterance:
    """One that is not decoded to its end."""

    session: Any
    start: int
    """Encoder frame of the stream at which it begins."""
    is_new: bool = True
    """Whether nothing of it has been left to an earlier segment."""


class LiveStream:
    """One stream: samples in, tokens of segments out.

    Many are decoded together by `decode_chunk`. What they recognize does not depend on the sizes
    in which samples arrive, nor on the other streams.

    Args:
        recognizer: of all streams that are decoded together.
        tokens: token of each id.
        rule: where segments end.
        pauses: what separates utterances; None: all is one.
        tail_padding: frames of 10 ms of silence behind an utterance, for models that emit late; the
            pause that ended it counts.
    """

    def __init__(
        self,
        recognizer: LiveRecognizer,
        tokens: Sequence[str],
        rule: EndpointRule = ENDPOINTS,
        *,
        pauses: PauseRule | None = PAUSES,
        tail_padding: int = 0,
    ) -> None:
        self.samples = 0
        """Accepted so far."""
        self.finished = False
        self._recognizer = recognizer
        self._tokens = tokens
        self._rule = rule
        self._tail_padding = tail_padding
        self._utterances = Utterances(pauses)
        self._going: deque[_Utterance] = deque()
        # Of the segment: utterances that are decoded, and the word before which a long one ended.
        self._settled: list[Emission] = []

    @property
    def seconds(self) -> float:
        """Of audio accepted so far."""
        return self.samples / SAMPLE_RATE

    @property
    def decoded(self) -> int:
        """Encoder frames (25 Hz) decoded so far, pauses included."""
        if self._going:
            return self._going[0].start + self.session.decoded
        return self.samples // FRAME

    @property
    def session(self) -> Any:
        """Of the utterance that is decoded next, if the stream is ready."""
        return self._going[0].session

    @property
    def is_ready(self) -> bool:
        """Whether there is a chunk to decode."""
        return bool(self._going) and self._recognizer.is_ready(self.session)

    @property
    def is_due(self) -> bool:
        """Whether the segment has ended before anything more is decoded."""
        is_new = not self._going or not self.session.decoded
        return is_new and bool(self._settled) and self._has_paused(self._settled)

    @property
    def is_pausing(self) -> bool:
        """Whether all words so far are complete: the next utterance has not begun."""
        return not self._going

    @property
    def ended(self) -> bool:
        """Whether all has been decoded, and nothing follows: `rest` is what is left."""
        return self.finished and not self._going

    def accept(self, samples: NDArray[np.float32]) -> None:
        """More samples (S,) in [-1, 1] at 16 kHz."""
        self.samples += len(samples)
        self._give(self._utterances.accept(samples))

    def finish(self) -> None:
        """Nothing follows."""
        self._give(self._utterances.finish())
        self.finished = True

    def update(self) -> Update:
        """What has been recognized: to be called after each chunk, and when the stream is due."""
        self._settle()
        if self.is_due:
            return Update(final=self._begin_segment(len(self._settled)))
        found = self.rest()
        if not found:
            return Update()
        if self._has_paused(found):
            return Update(final=self._begin_segment(len(found)))
        if self.decoded - found[0].frame >= self._rule.longest * ENCODER_RATE:
            # Without a last word it is one word: of that length it is noise.
            last = self._last_word(found) or len(found)
            return Update(final=self._begin_segment(last), partial=found[last:])
        return Update(partial=found)

    def rest(self) -> list[Emission]:
        """Tokens of the segment so far; at the end of the stream, of its last one."""
        return self._settled + (self._emissions() if self._going else [])

    def words(self, found: Iterable[Emission]) -> list[Word]:
        """The words of tokens."""
        return words_of(found, self._tokens)

    def _give(self, parts: Iterable[Part]) -> None:
        for part in parts:
            if part.begins:
                self._going.append(_Utterance(self._recognizer.open(), part.start // FRAME))
            session = self._going[-1].session
            session.accept_waveform(torch.from_numpy(part.samples))
            if part.ends:
                session.finish(max(0, self._tail_padding - part.quiet // SHIFT_SAMPLES))
        self._settle()

    def _settle(self) -> None:
        """Leave sessions that are decoded to their ends."""
        while self._going and self.session.finished and not self.is_ready:
            found = self._emissions()
            self._going.popleft()
            if self._going:  # the next one may begin before this one has ended
                end = self._going[0].start
                found = [emission for emission in found if emission.frame < end]
            self._settled += found

    def _emissions(self) -> list[Emission]:
        utterance = self._going[0]
        best = self._recognizer.hypotheses(utterance.session)
        found = emissions(best[0], utterance.start) if best else []
        if found and utterance.is_new:
            found[0] = found[0]._replace(begins=True)
        return found

    def _has_paused(self, found: list[Emission]) -> bool:
        return self.decoded - 1 - found[-1].frame >= self._rule.pause * ENCODER_RATE

    def _begin_segment(self, count: int) -> list[Emission]:
        """Begin a segment behind so many tokens, which are given back."""
        found = self.rest()
        if len(found) > len(self._settled):
            self._going[0].is_new = False
            self._recognizer.reset(self.session)
        self._settled = found[count:]
        return found[:count]

    def _last_word(self, found: list[Emission]) -> int:
        """Number of the token that begins the last word."""
        for number in range(len(found) - 1, 0, -1):
            if found[number].begins or begins_word(self._tokens[found[number].token]):
                return number
        return 0


def decode_chunk(
    recognizer: LiveRecognizer, streams: Sequence[LiveStream]
) -> list[tuple[LiveStream, Update]]:
    """Decode one chunk of each stream that is ready, in one batch, and tell what it brought; and
    which segments have ended without."""
    due = [stream for stream in streams if stream.is_due]
    ready = [stream for stream in streams if stream.is_ready and not stream.is_due]
    if ready:
        recognizer.step([stream.session for stream in ready])
    return [(stream, stream.update()) for stream in (*due, *ready)]
