"""The teacher's side of a batch, as the loader's workers make it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from mvqkd.data.targets.teacher_frames import Pairing, match_frames


@dataclass
class FrameTargets:
    """Targets of some frames of a batch, packed: frames without one take no room."""

    values: Tensor
    """(M, W): one row for each frame that has a target."""
    utterances: Tensor
    """(M,) int64: its utterance in the batch."""
    frames: Tensor
    """(M,) int64: its frame of the student (25 Hz)."""
    num_frames: int
    """Student frames of the longest utterance, with a target or not."""

    def repeat(self, count: int, num_utterances: int) -> FrameTargets:
        """Of a batch in which its `num_utterances` stand `count` times, one round after another."""
        rounds = torch.arange(count, device=self.utterances.device)
        rounds = rounds.repeat_interleave(len(self.utterances))
        return replace(
            self,
            values=self.values.repeat(count, 1),
            utterances=self.utterances.repeat(count) + num_utterances * rounds,
            frames=self.frames.repeat(count),
        )

    def padded(self, batch_size: int, padding: float = 0) -> tuple[Tensor, Tensor]:
        """(N, T, W) targets, `padding` where there is none, and (N, T) bool: where there is one."""
        present = torch.zeros(
            batch_size, self.num_frames, dtype=torch.bool, device=self.values.device
        )
        present[self.utterances, self.frames] = True
        values = self.values.new_full((*present.shape, self.values.shape[1]), padding)
        values[self.utterances, self.frames] = self.values
        return values, present


@dataclass
class Waveforms:
    """Audio of a batch for a teacher that runs beside the student; without augmentation."""

    samples: Tensor
    """(N, S) float32 at 16 kHz, padded with zeros."""
    lens: Tensor
    """(N,) int64 valid samples."""
    num_samples: list[int]
    """The same, for the CPU."""
    student_lens: list[int]
    """Valid frames of the student (25 Hz)."""

    def repeat(self, count: int, num_utterances: int) -> Waveforms:
        """Of a batch in which its utterances stand `count` times, one round after another."""
        return replace(
            self,
            samples=self.samples.repeat(count, 1),
            lens=self.lens.repeat(count),
            num_samples=self.num_samples * count,
            student_lens=self.student_lens * count,
        )


class TargetSource(Protocol):
    """Makes the teacher's side of a batch; called in the loader's workers, forked or spawned."""

    def __call__(self, ids: Sequence[str], student_lens: Sequence[int]) -> FrameTargets | Waveforms:
        """The teacher's side of a batch.

        Args:
            ids: N utterance ids.
            student_lens: N, valid student frames of each.

        Raises:
            UserError: there is none of an utterance, or one of another length.
        """
        ...


def pack(
    ids: Sequence[str],
    rows: Sequence[Tensor],
    student_lens: Sequence[int],
    *,
    pairing: Pairing,
    tolerance: int = 3,
    source: object,
) -> FrameTargets:
    """Teacher frames as targets of student frames.

    Student frame t gets the teacher frames ratio * (t - delay) + offset ... + ratio - 1, one after
    the other: with 50 Hz codes, 25 Hz frames (ratio 2) and no offset, its target is the Q indexes
    of teacher frame 2t followed by those of 2t + 1 (Guo et al., arXiv 2211.00508).

    Args:
        ids: N utterance ids, for errors.
        rows: N tensors (T_n, W / ratio) on one device: teacher frames.
        student_lens: N, valid student frames.
        pairing: of their frames.
        tolerance: student frames by which the teacher may be longer or shorter; what it has too
            much is dropped, what it lacks has no targets.
        source: where the teacher's frames are from, for errors.

    Raises:
        UserError: the lengths of an utterance differ by more than the tolerance.
    """
    device = rows[0].device
    values, utterances, frames = [], [], []
    for number, (utterance, x, length) in enumerate(zip(ids, rows, student_lens, strict=True)):
        begin, count, first = match_frames(
            utterance,
            len(x),
            length,
            pairing=pairing,
            tolerance=tolerance,
            source=source,
        )
        groups = x[first : first + count * pairing.ratio]
        values.append(groups.reshape(count, pairing.ratio * x.shape[1]))
        utterances.append(torch.full((count,), number))
        frames.append(torch.arange(begin, begin + count))
    return FrameTargets(
        values=torch.cat(values),
        utterances=torch.cat(utterances).to(device, non_blocking=True),
        frames=torch.cat(frames).to(device, non_blocking=True),
        num_frames=max(student_lens),
    )
