"""What files of codes and of embeddings have in common: teacher frames by utterance id."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mvqkd.storage.ragged import RaggedStore


def stated(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes without those that are not known (None)."""
    return {name: value for name, value in attributes.items() if value is not None}


def same_source(stored: Any, wanted: Any) -> bool:
    """Whether a file's `CodesInfo` or `EmbeddingsInfo` is the wanted one; a file of an earlier
    version may not say where the frames lie."""
    if stored.first_frame is None:
        wanted = replace(wanted, first_frame=None)
    return stored == wanted


class TeacherFrameStore:
    """Read teacher frames by utterance id, from a file or a folder of shards.

    Opening reads ids and offsets alone; frames are mapped into memory. Safe in worker processes,
    forked or spawned.

    Attributes:
        path: file or folder.
        frame_rate: Hz.
        first_frame: seconds to the centre of the first frame; None: the file does not say.

    Args:
        path: file or folder.
        dataset: name of the dataset of rows, and of the step of `mvqkd.errors.STEPS` that makes it.

    Raises:
        UserError: missing, incomplete or truncated file.
    """

    frame_rate: float
    first_frame: float | None

    def __init__(self, path: str | Path, dataset: str) -> None:
        self._store = RaggedStore(path, dataset=dataset, step=dataset)
        self.path = self._store.path

    def __len__(self) -> int:
        return len(self._store)

    def __contains__(self, utterance: object) -> bool:
        return utterance in self._store

    def __iter__(self) -> Iterator[str]:
        """Utterance ids."""
        return iter(self._store)

    def __getitem__(self, utterance: str) -> np.ndarray:
        """(frames, columns) of an utterance, a read-only view.

        Raises:
            UserError: it is not there.
        """
        return self._store[utterance]

    def num_frames(self, utterance: str) -> int:
        """Teacher frames of an utterance.

        Raises:
            UserError: it is not there.
        """
        return self._store.num_frames(utterance)

    @property
    def total_frames(self) -> int:
        """Teacher frames of all utterances together."""
        return self._store.total_frames

    @property
    def bytes_per_hour(self) -> float:
        """Bytes on disk for an hour of audio, ids and headers included."""
        return self._store.num_bytes / (self.total_frames / self.frame_rate / 3600)
