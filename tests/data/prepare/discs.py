"""Trees in the layout of Wall Street Journal's discs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile


class DiscUtterance(NamedTuple):
    """Of a list."""

    place: str
    """As the list has it, from `wsj0` or `wsj1` on."""
    samples: np.ndarray
    """(S,) at 16 kHz."""
    text: str
    """As `*.dot` files have it."""


def write_sphere(path: Path, samples: np.ndarray) -> None:
    """Uncompressed SPHERE."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        soundfile.write(file, samples, 16000, format="NIST", subtype="PCM_16")


def write_list(
    disc: Path, index: str, utterances: Sequence[DiscUtterance], more: Sequence[str] = ()
) -> None:
    """A list with its audio and transcripts; `more` are places that have neither."""
    path = disc / index
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"99_9_9: {place}\n" for place in [*(u.place for u in utterances), *more]]
    path.write_text(";; a list\n" + "".join(lines))
    for utterance in utterances:
        audio = disc / utterance.place.strip("/")
        if not audio.suffix:  # some lists have none
            audio = audio.with_suffix(".wv1")
        write_sphere(audio, utterance.samples)
        audio.with_suffix(".wv2").write_bytes(b"another microphone")
        name = audio.stem.lower()
        folder = disc / utterance.place.strip("/").partition("/")[0] / "transcrp" / name[:3]
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / f"{name[:6]}00.dot", "a") as file:
            file.write(f"{utterance.text} ({name})\n")
