"""What transcription and serving need of a recognizer.

`mvqkd.recognizer.Recognizer` is one. A session's features, states and search are its own affair: a
recognizer of another runtime needs no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mvqkd.decoding.hypothesis import Hypothesis


class LiveSession(Protocol):
    """One stream."""

    finished: bool
    decoded: int
    """Encoder frames (25 Hz) decoded so far."""

    def accept_waveform(self, samples: Any) -> None:
        """Samples (S,) float32 in [-1, 1] at 16 kHz: a tensor."""
        ...

    def finish(self, tail_padding: int = 0) -> None:
        """Nothing follows but so many frames of 10 ms of silence."""
        ...


class LiveRecognizer(Protocol):
    """Decodes streams together, a chunk at a time: `mvqkd.decoding.StreamingRecognizer`."""

    def open(self) -> Any:
        """A new session."""
        ...

    def is_ready(self, session: Any) -> bool:
        """Whether there is a chunk to decode."""
        ...

    def step(self, sessions: Sequence[Any]) -> None:
        """Decode one chunk of each, all of which are ready."""
        ...

    def hypotheses(self, session: Any) -> list[Hypothesis]:
        """What is recognized since the last reset, the best first; frames count from the beginning
        of the stream."""
        ...

    def reset(self, session: Any) -> None:
        """Forget what was recognized, and go on."""
        ...


class FileRecognizer(Protocol):
    """A model with its tokens and a search."""

    @property
    def tokens(self) -> list[str]:
        """Token of each id, as sentencepiece spells it."""
        ...

    @property
    def streams(self) -> bool:
        """Whether `sessions` is for this model; otherwise its frames attend to the whole input."""
        ...

    def sessions(self) -> LiveRecognizer:
        """A recognizer of streams."""
        ...

    def recognize(self, waves: Sequence[NDArray[np.float32]]) -> list[Hypothesis]:
        """The best hypothesis of each of several signals (S,) in [-1, 1] at 16 kHz, decoded in one
        batch; an empty one where there is not enough for a frame."""
        ...
