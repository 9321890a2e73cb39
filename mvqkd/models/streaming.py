"""How much of an utterance the encoder's frames attend to."""

from __future__ import annotations

from typing import NamedTuple


class StreamingConfig(NamedTuple):
    """Chunks of an encoder; frames of 40 ms."""

    chunk_size: int | None
    """Frames of a chunk; None: full context, the utterance is one chunk."""
    left_context: int | None
    """Frames before its chunk that a frame attends to; None: all."""


FULL_CONTEXT = StreamingConfig(None, None)
