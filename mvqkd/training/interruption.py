"""Signals that ask a training to stop."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_INTERRUPTED = 75
"""Exit status of a training that stopped because it was asked to and can go on (EX_TEMPFAIL)."""


class Interruption:
    """Whether SIGTERM or SIGINT has come; a second SIGINT raises KeyboardInterrupt at once."""

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self._process = os.getpid()

    @property
    def requested(self) -> bool:
        """Whether to stop at the next whole step."""
        return self.signal_name is not None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            # A forked loader process inherits this handler. Ctrl-C reaches the whole group: the
            # loaders must live on until the training stops. SIGTERM is how they are ended.
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal_name = signal.Signals(number).name


@contextmanager
def listen() -> Iterator[Interruption]:
    """Receive SIGTERM and SIGINT inside the block; main thread only."""
    interruption = Interruption()
    numbers = (signal.SIGTERM, signal.SIGINT)
    previous = [signal.signal(number, interruption._receive) for number in numbers]
    try:
        yield interruption
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)
