"""A few utterances beside a model, to try it with."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from lhotse.serialization import deserialize_item
from numpy.typing import NDArray

from mvqkd.data.loading.index import transcript
from mvqkd.features.reading import read_audio
from mvqkd.geometry import SAMPLE_RATE
from mvqkd.storage.files import atomic_path, write_text
from mvqkd.storage.jsonl import read_items

LONGEST = 20.0
"""Seconds; longer utterances are passed over."""


class Utterance(NamedTuple):
    """Of a split."""

    id: str
    text: str
    samples: NDArray[np.float32]
    """(S,) at 16 kHz."""


def first_utterances(cuts: Path, number: int) -> list[Utterance]:
    """The first utterances of a manifest that are not too long.

    Raises:
        UserError: the manifest or their audio is missing or damaged.
    """
    return list(islice(_utterances(cuts), number))


def _utterances(cuts: Path) -> Iterator[Utterance]:
    for item in read_items(cuts):
        if item["duration"] <= LONGEST:
            text = transcript(item)
            yield Utterance(item["id"], text, read_audio(deserialize_item(item)))


def write_test_wavs(utterances: list[Utterance], folder: Path) -> list[str]:
    """Write `0.wav`, `1.wav` ... of 16 bits and 16 kHz, and `trans.txt` with their transcripts;
    returns their names."""
    names = [f"{n}.wav" for n in range(len(utterances))]
    for name, utterance in zip(names, utterances, strict=True):
        with atomic_path(folder / name) as partial:
            soundfile.write(partial, utterance.samples, SAMPLE_RATE, subtype="PCM_16")
    lines = (f"{name} {u.text}\n" for name, u in zip(names, utterances, strict=True))
    write_text(folder / "trans.txt", "".join(lines))
    return names
