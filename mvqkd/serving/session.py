"""One client's stream: what it sends, what is recognized, what it is told."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mvqkd.features.online_resample import OnlineResample
from mvqkd.geometry import ENCODER_RATE, SAMPLE_RATE
from mvqkd.serving.protocol import ALL_DONE, result
from mvqkd.transcription.live import LiveStream
from mvqkd.transcription.transcript import Emission


@dataclass(frozen=True)
class Limits:
    """What a client may ask of the server."""

    sessions: int = 64
    """At once; further ones are closed with code 1013, try again later."""
    seconds: float = 3600.0
    """Of audio in a session."""
    message_bytes: int = 1 << 20
    """Of a frame: 16 seconds of audio."""
    pending: float = 20.0
    """Seconds of audio that wait for decoding. When there are more, nothing is read from the client
    until they are fewer: TCP slows it down."""
    idle: float = 60.0
    """Seconds without a message from the client, or in which it takes none."""


LIMITS = Limits()


class ServedSession:
    """A stream between a client and the decoder.

    `put`, `end` and `outgoing` belong to the event loop; `accept` and `collect` to the thread that
    decodes. What both touch are queues and numbers that one of them writes.

    Args:
        stream: what is recognized.
        tokens: token of each id.
        rate: Hz, of what the client sends.
    """

    def __init__(self, stream: LiveStream, tokens: Sequence[str], rate: int = SAMPLE_RATE) -> None:
        self.stream = stream
        self.outgoing: asyncio.Queue[str | None] = asyncio.Queue()
        """Messages to the client; None: that was all."""
        self.drained = asyncio.Event()
        """Set whenever audio has been decoded."""
        self.waiting_since = time.monotonic()
        """When it was last decoded: of many sessions, those that wait longest come first."""
        self.received_seconds = 0.0
        """Of audio."""
        self.done = False
        self.failed = False
        """Whether decoding it was a defect."""
        self._tokens = tokens
        self._rate = rate
        self._resample = OnlineResample(rate)
        self._incoming: deque[NDArray[np.float32] | None] = deque()
        self._segment = 0
        self._start = 0.0
        self._last = ""

    @property
    def has_input(self) -> bool:
        """Whether something arrived that the decoder has not seen."""
        return bool(self._incoming)

    @property
    def pending_seconds(self) -> float:
        """Of audio that has arrived and is not decoded."""
        return self.received_seconds - self.stream.decoded / ENCODER_RATE

    def put(self, samples: NDArray[np.float32]) -> None:
        """Samples (S,) from the client."""
        self.received_seconds += len(samples) / self._rate
        self._incoming.append(samples)

    def end(self) -> None:
        """The client has sent everything."""
        self._incoming.append(None)

    def accept(self) -> None:
        """Give the decoder what has arrived."""
        arrived: list[NDArray[np.float32]] = []
        ends = False
        while self._incoming and not ends:
            samples = self._incoming.popleft()
            if samples is None:
                ends = True
            else:
                arrived.append(samples)
        if arrived:
            self.stream.accept(self._resample.accept(np.concatenate(arrived)))
        if ends:
            self.stream.accept(self._resample.finish())
            self.stream.finish()

    def collect(self, *, decoded: bool) -> list[str | None]:
        """Messages about what has been recognized since the last time.

        Args:
            decoded: whether a chunk has been.
        """
        messages: list[str | None] = []
        if decoded or self.stream.is_due:
            update = self.stream.update()
            if update.final:
                messages.append(self._message(update.final, final=True))
                self._segment += 1
                self._start = self.stream.decoded / ENCODER_RATE
                if update.partial:  # the word that the segment ended before
                    self._start = update.partial[0].frame / ENCODER_RATE
            elif update.partial:
                message = self._message(update.partial)
                messages += [message] if message != self._last else []
                self._last = message
        if self.stream.ended and not self.done:
            self.done = True
            messages += [self._message(self.stream.rest(), final=True, end=True), ALL_DONE, None]
        return messages

    def _message(self, found: list[Emission], *, final: bool = False, end: bool = False) -> str:
        return result(
            found,
            self.stream.words(found),
            self._tokens,
            segment=self._segment,
            start=self._start,
            final=final,
            end=end,
        )
