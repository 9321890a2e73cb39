"""The audio of manifests of cuts, utterance by utterance."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from lhotse.serialization import deserialize_item
from lhotse.utils import compute_num_samples
from numpy.typing import NDArray

from mvqkd.data.loading.index import open_index, transcript
from mvqkd.errors import UserError
from mvqkd.features.reading import read_audio
from mvqkd.geometry import SAMPLE_RATE
from mvqkd.storage.jsonl import stem


class AudioCuts:
    """Cuts of several manifests, numbered through; speed-perturbed copies are utterances of their
    own.

    Attributes:
        ids: utterance ids.
        num_samples: (N,) int64, at 16 kHz.
        splits: name of each manifest's split -> numbers of its cuts.

    Args:
        paths: manifests; one that is named twice counts once.

    Raises:
        UserError: a manifest is missing or damaged, or an utterance is in two of them.
    """

    def __init__(self, paths: Sequence[str | Path]) -> None:
        manifests = list(dict.fromkeys(map(Path, paths)))
        self._indexes = [open_index(path, None) for path in manifests]
        self.ids = [raw.decode() for index in self._indexes for raw in index.ids.tolist()]
        if len(set(self.ids)) < len(self.ids):
            (twice, _), *_ = Counter(self.ids).most_common(1)
            raise UserError(f"utterance {twice} is in two of the manifests", remedy="give one")
        self._firsts = np.cumsum([0] + [len(index) for index in self._indexes])
        self.splits: dict[str, range] = {}
        for path, first, index in zip(
            manifests, self._firsts.tolist(), self._indexes, strict=False
        ):
            # Not the stem of the name: train-1.5h and train-1.0h are different splits.
            name = stem(path).rpartition("_cuts_")[2]
            # Two manifests of one name, in two folders.
            while name in self.splits:
                name += "-2"
            self.splits[name] = range(first, first + len(index))
        self.num_samples: NDArray[np.int64] = np.array(
            [
                compute_num_samples(seconds, SAMPLE_RATE)
                for index in self._indexes
                for seconds in index.seconds.tolist()
            ],
            dtype=np.int64,
        )

    def __len__(self) -> int:
        return len(self.ids)

    def samples(self, number: int) -> NDArray[np.float32]:
        """Audio (S,) of a cut at 16 kHz.

        Raises:
            UserError: it cannot be read, or is shorter than the manifest says.
        """
        samples = read_audio(deserialize_item(self._cut(number)))
        if len(samples) != self.num_samples[number]:
            raise UserError(
                f"the audio of utterance {self.ids[number]} has {len(samples)} samples, not "
                f"{self.num_samples[number]} at {SAMPLE_RATE} Hz",
                remedy="prepare the data again",
                step="manifests",
            )
        return samples

    def text(self, number: int) -> str:
        """Transcript of a cut; empty when it has none."""
        return transcript(self._cut(number))

    def sample(self, count: int, seed: int) -> list[int]:
        """Numbers of `count` random cuts, in their order; 0: of all. Chosen by seed and ids."""
        if not 0 < count < len(self):
            return list(range(len(self)))
        rank = [hashlib.sha256(f"{seed} {utterance}".encode()).digest() for utterance in self.ids]
        return sorted(sorted(range(len(self)), key=rank.__getitem__)[:count])

    def _cut(self, number: int) -> dict[str, object]:
        which = int(np.searchsorted(self._firsts, number, side="right")) - 1
        return self._indexes[which].cut(number - int(self._firsts[which]))
