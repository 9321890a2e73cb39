"""Signals that ask a training to stop."""

from __future__ import annotations

import faulthandler
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)

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
            return  # in a loader process, which Ctrl-C reaches too: its parent will end it
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal_name = signal.Signals(number).name


def handle_signals_on_own_stack() -> None:
    """Have the handlers of this thread's signals run on a stack of their own; main thread only.

    Without one, the kernel puts what a handler needs where the stack pointer points. The LSTM that
    oneDNN compiles (torch 2.11, x86-64) uses that register for addresses of tensors half of the
    time: a signal then overwrites tensors, and what the heap is managed by. Python's handlers ask
    for the other stack, and its fault handler brings one. It also tells where a process was when it
    crashed.
    """
    if not faulthandler.is_enabled():
        faulthandler.enable(2)  # sys.stderr may be no file


@contextmanager
def catch_signals() -> Iterator[Interruption]:
    """Receive SIGTERM and SIGINT inside the block; main thread only."""
    handle_signals_on_own_stack()
    interruption = Interruption()
    previous = [signal.signal(number, interruption._receive) for number in _SIGNALS]
    try:
        yield interruption
    finally:
        for number, handler in zip(_SIGNALS, previous, strict=True):
            signal.signal(number, handler)
