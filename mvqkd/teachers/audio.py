"""The audio of manifests of cuts, in batches for a teacher."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lhotse.serialization import deserialize_item
from lhotse.utils import compute_num_samples
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mvqkd.data.features import read_audio
from mvqkd.data.index import open_index, transcript
from mvqkd.data.jsonl import stem
from mvqkd.errors import UserError
from mvqkd.geometry import SAMPLE_RATE
from mvqkd.teachers.interface import Embeddings, Teacher
from mvqkd.workers import end_with_parent


class AudioCuts:
    """Cuts of several manifests, numbered through; speed-perturbed copies are utterances of their
    own.

    Attributes:
        ids: utterance ids.
        num_samples: (N,) int64, at 16 kHz.
        parts: name of each manifest's part -> numbers of its cuts.

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
        self.parts: dict[str, range] = {}
        for path, first, index in zip(
            manifests, self._firsts.tolist(), self._indexes, strict=False
        ):
            # Parts of names such as train-1.5h and train-1.0h are two.
            name = stem(path).rpartition("_cuts_")[2]
            # Two manifests of one name, in two folders.
            while name in self.parts:
                name += "-2"
            self.parts[name] = range(first, first + len(index))
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
                remedy="prepare the data again: ./run.sh --stage 1 --stop-stage 2",
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


@dataclass
class AudioBatch:
    """Waveforms of several utterances."""

    numbers: list[int]
    """Of the cuts."""
    waveforms: Tensor
    """(N, S) float32, padded with zeros."""
    lens: Tensor
    """(N,) int64 valid samples."""


def _begin_worker(worker: int) -> None:
    end_with_parent()


def audio_batches(
    cuts: AudioCuts, numbers: Sequence[int], *, max_duration: float, num_workers: int = 0
) -> Iterator[AudioBatch]:
    """Batches of the cuts with these numbers, longest first: what does not fit into memory fails
    at once.

    Args:
        max_duration: seconds of a batch, padding included, at most; a longer utterance is alone.
        num_workers: processes that read audio; 0 reads in this one.

    Raises:
        UserError: audio that cannot be read.
    """
    ordered = sorted(numbers, key=lambda number: (-int(cuts.num_samples[number]), number))
    batches: list[list[int]] = []
    for number in ordered:
        longest = int(cuts.num_samples[batches[-1][0]]) if batches else 0
        if batches and (len(batches[-1]) + 1) * longest <= max_duration * SAMPLE_RATE:
            batches[-1].append(number)
        else:
            batches.append([number])
    loader: DataLoader[AudioBatch | UserError] = DataLoader(
        _Batches(cuts, batches),
        batch_size=None,
        num_workers=num_workers,
        worker_init_fn=_begin_worker,
        generator=torch.Generator(),
    )
    for batch in loader:
        if isinstance(batch, UserError):
            raise batch
        yield batch


def embed(
    teacher: Teacher,
    cuts: AudioCuts,
    numbers: Sequence[int],
    *,
    device: torch.device,
    max_duration: float,
    num_workers: int = 0,
    precision: str = "float32",
) -> Iterator[tuple[int, dict[int, Tensor]]]:
    """Embeddings of utterances, one by one, in the order of `audio_batches`.

    Args:
        teacher: on `device`.
        max_duration, num_workers: see `audio_batches`.
        precision: `float32`, or `bfloat16` or `float16` for automatic mixed precision.

    Yields:
        (number of the cut, layer -> (T, D) float32 on `device`).

    Raises:
        UserError: audio that cannot be read, or that is too short for one frame.
    """
    mixed = precision != "float32"
    for batch in audio_batches(cuts, numbers, max_duration=max_duration, num_workers=num_workers):
        too_short = (teacher.output_lens(batch.lens) < 1).nonzero()
        if len(too_short):
            row = int(too_short[0])
            raise UserError(
                f"utterance {cuts.ids[batch.numbers[row]]} has {int(batch.lens[row])} samples: too "
                "short for one frame of the teacher",
                remedy="leave it out: prepare the data with a larger --min-seconds",
            )
        with (
            torch.inference_mode(),
            torch.autocast(device.type, dtype=getattr(torch, precision), enabled=mixed),
        ):
            output: Embeddings = teacher(batch.waveforms.to(device), batch.lens.to(device))
        for row, (number, frames) in enumerate(
            zip(batch.numbers, output.lens.tolist(), strict=True)
        ):
            yield number, {layer: x[row, :frames].float() for layer, x in output.layers.items()}


class _Batches(Dataset):
    def __init__(self, cuts: AudioCuts, batches: list[list[int]]) -> None:
        self.cuts = cuts
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> AudioBatch | UserError:
        numbers = self.batches[index]
        try:
            waves = [torch.from_numpy(self.cuts.samples(number)) for number in numbers]
        except UserError as error:
            # Returned, because the DataLoader wraps what a worker raises in a traceback of its own.
            return error
        lens = torch.tensor([len(wave) for wave in waves])
        return AudioBatch(numbers, torch.nn.utils.rnn.pad_sequence(waves, batch_first=True), lens)
