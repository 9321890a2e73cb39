"""A stream that is recognized while it arrives, in segments that end at pauses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mvqkd.geometry import ENCODER_RATE, SAMPLE_RATE
from mvqkd.transcription.interface import LiveRecognizer
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


class LiveStream:
    """One stream: samples in, tokens of segments out.

    Many are decoded together by `decode_chunk`. What they recognize does not depend on the sizes
    in which samples arrive, nor on the other streams.

    Args:
        recognizer: of all streams that are decoded together.
        tokens: token of each id.
        rule: where segments end.
        tail_padding: frames of 10 ms of silence behind the end, for models that emit late.
    """

    def __init__(
        self,
        recognizer: LiveRecognizer,
        tokens: Sequence[str],
        rule: EndpointRule = ENDPOINTS,
        *,
        tail_padding: int = 0,
    ) -> None:
        self.session: Any = recognizer.open()
        self.samples = 0
        """Accepted so far."""
        self._recognizer = recognizer
        self._tokens = tokens
        self._rule = rule
        self._tail_padding = tail_padding
        self._carried: list[Emission] = []  # the word in which a long segment was ended

    @property
    def seconds(self) -> float:
        """Of audio accepted so far."""
        return self.samples / SAMPLE_RATE

    @property
    def is_ready(self) -> bool:
        """Whether there is a chunk to decode."""
        return self._recognizer.is_ready(self.session)

    @property
    def ended(self) -> bool:
        """Whether all has been decoded, and nothing follows: `rest` is what is left."""
        return self.session.finished and not self.is_ready

    def accept(self, samples: NDArray[np.float32]) -> None:
        """More samples (S,) in [-1, 1] at 16 kHz."""
        self.samples += len(samples)
        self.session.accept_waveform(torch.from_numpy(samples))

    def finish(self) -> None:
        """Nothing follows."""
        self.session.finish(self._tail_padding)

    def update(self) -> Update:
        """What has been recognized, after a chunk; called once for each."""
        found = self.rest()
        if not found:
            return Update()
        silent = self.session.decoded - 1 - found[-1].frame
        if silent >= self._rule.pause * ENCODER_RATE:
            self._begin_segment([])
            return Update(final=found)
        if self.session.decoded - found[0].frame >= self._rule.longest * ENCODER_RATE:
            last = self._last_word(found)
            if last:  # else it is one word: of that length it is noise
                self._begin_segment(found[last:])
                return Update(final=found[:last], partial=found[last:])
            self._begin_segment([])
            return Update(final=found)
        return Update(partial=found)

    def rest(self) -> list[Emission]:
        """Tokens of the segment that the end of the stream has ended."""
        best = self._recognizer.hypotheses(self.session)
        return [*self._carried, *(emissions(best[0]) if best else [])]

    def words(self, found: Iterable[Emission]) -> list[Word]:
        """The words of tokens."""
        return words_of(found, self._tokens)

    def _begin_segment(self, carried: list[Emission]) -> None:
        self._recognizer.reset(self.session)
        self._carried = carried

    def _last_word(self, found: list[Emission]) -> int:
        """Number of the token that begins the last word."""
        for number in range(len(found) - 1, 0, -1):
            if begins_word(self._tokens[found[number].token]):
                return number
        return 0


def decode_chunk(
    recognizer: LiveRecognizer, streams: Sequence[LiveStream]
) -> list[tuple[LiveStream, Update]]:
    """Decode one chunk of each stream that is ready, in one batch, and tell what it brought."""
    ready = [stream for stream in streams if stream.is_ready]
    if not ready:
        return []
    recognizer.step([stream.session for stream in ready])
    return [(stream, stream.update()) for stream in ready]
