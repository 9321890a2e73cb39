"""What a split of a corpus holds, before its audio is examined."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from lhotse import Recording, SupervisionSegment

AUDIO_SUFFIXES = (".flac", ".wav", ".opus", ".ogg", ".mp3")
"""Of audio files that are read, in small letters."""

WHOLE = math.inf
"""As the duration of an utterance: all of its recording."""


@dataclass
class Listing:
    """A split of a corpus, its audio not examined yet."""

    probes: dict[str, Callable[[], Recording]] = field(default_factory=dict)
    """By recording id: decodes the audio and describes it, or raises Fault."""
    audio: dict[str, Path] = field(default_factory=dict)
    """By recording id: its file, where it is one."""
    promised: dict[str, int] = field(default_factory=dict)
    """By recording id: samples that a manifest says it has."""
    supervisions: list[SupervisionSegment] = field(default_factory=list)
    """Utterances; a duration may be `WHOLE`."""
    problems: list[tuple[str, str, str]] = field(default_factory=list)
    """(utterance, kind, detail) of what can be seen without audio."""
    changes: list[tuple[str, str, str]] = field(default_factory=list)
    """(utterance, kind, detail) of utterances that are used, but not as their names say."""
    unused: list[tuple[str, str]] = field(default_factory=list)
    """(file, why) of files that belong to no utterance."""
    files: list[Path] = field(default_factory=list)
    """All files that this split was read from, audio included."""


class SplitLister(Protocol):
    """How to list a split of a corpus."""

    def __call__(self, *, labelled: bool = True) -> Listing:
        """List it; not `labelled`: audio without a transcript is no problem, and is listed with an
        empty one."""
        ...


def whole(utterance: str, recording: str, text: str = "", **more: str | None) -> SupervisionSegment:
    """An utterance that is all of a recording."""
    return SupervisionSegment(
        id=utterance, recording_id=recording, start=0.0, duration=WHOLE, text=text, **more
    )
