"""Embeddings of the audio of many cuts, in batches for a teacher."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mvqkd.data.loading.audio_cuts import AudioCuts
from mvqkd.errors import UserError
from mvqkd.geometry import SAMPLE_RATE
from mvqkd.runtime.loading import items_of, shared
from mvqkd.runtime.workers import end_with_parent
from mvqkd.teachers.interface import Embeddings, Teacher


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
    yield from items_of(loader)


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
                remedy="leave it out: prepare the data with a higher minimum of seconds",
                parameters=("min_seconds",),
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
            lens = torch.tensor([len(wave) for wave in waves])
            padded = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
            return shared(AudioBatch(numbers, padded, lens))
        except UserError as error:
            return error
