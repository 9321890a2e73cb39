"""Where the teacher's side of a distillation loss comes from: files, or the teacher itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mvqkd.data.alignment import require_ratio
from mvqkd.data.codes import CodeStore
from mvqkd.data.embeddings import EmbeddingStore, stack_frames
from mvqkd.errors import UserError
from mvqkd.geometry import ENCODER_RATE
from mvqkd.quantization import Quantizer
from mvqkd.teachers.audio import AudioCuts
from mvqkd.teachers.interface import Teacher


class Targets(Protocol):
    """Targets of the student's frames, by utterance."""

    def __call__(self, ids: Sequence[str], lens: Tensor) -> tuple[Tensor, Tensor]:
        """Targets of a batch.

        Args:
            ids: N utterance ids.
            lens: (N,) valid student frames.

        Returns:
            (N, T, W) targets on the device of `lens`, T = max(lens), and (N, T) bool: the frames
            that have one.
        """
        ...


class StoredCodes:
    """Codebook indexes of a `CodeStore`: targets are (N, T, ratio * Q) int64.

    Args:
        store: of the codes.
        student_rate: student frames a second, Hz.
        delay: student frames by which the student is late.

    Attributes:
        ratio: teacher frames for a student frame.

    Raises:
        UserError: frame rates without an integer ratio.
    """

    def __init__(
        self, store: CodeStore, *, student_rate: float = ENCODER_RATE, delay: int = 0
    ) -> None:
        self.store = store
        self.ratio = require_ratio(store.info.frame_rate, student_rate)
        self.delay = delay

    def __call__(self, ids: Sequence[str], lens: Tensor) -> tuple[Tensor, Tensor]:
        """See `Targets`; raises UserError for an utterance without codes."""
        targets = self.store.targets_for(ids, lens, ratio=self.ratio, delay=self.delay)
        return targets, targets[:, :, 0] >= 0


class DecodedCodes:
    """The embeddings that a quantizer makes of stored codes, for regression on a few bytes a frame:
    targets are (N, T, ratio * D) float32, zero where there are none; arguments as those of
    `StoredCodes`.

    Raises:
        UserError: codes of another quantizer, or frame rates without an integer ratio.
    """

    def __init__(
        self,
        store: CodeStore,
        quantizer: Quantizer,
        *,
        student_rate: float = ENCODER_RATE,
        delay: int = 0,
    ) -> None:
        store.require(quantizer_id=quantizer.id)
        self._codes = StoredCodes(store, student_rate=student_rate, delay=delay)
        self._quantizer = quantizer
        self.ratio = self._codes.ratio
        self.delay = delay

    def __call__(self, ids: Sequence[str], lens: Tensor) -> tuple[Tensor, Tensor]:
        """See `Targets`; raises UserError for an utterance without codes."""
        codes, present = self._codes(ids, lens)
        quantizer = self._quantizer.to(codes.device)
        rows = quantizer.decode(codes[present].unflatten(1, (self.ratio, -1))).flatten(1)
        targets = rows.new_zeros(*present.shape, rows.shape[1])
        targets[present] = rows
        return targets, present


class StoredEmbeddings:
    """Embeddings of an `EmbeddingStore`: targets are (N, T, ratio * D) float32; arguments as those
    of `StoredCodes`."""

    def __init__(
        self, store: EmbeddingStore, *, student_rate: float = ENCODER_RATE, delay: int = 0
    ) -> None:
        self.store = store
        self.ratio = require_ratio(store.info.frame_rate, student_rate)
        self.delay = delay

    def __call__(self, ids: Sequence[str], lens: Tensor) -> tuple[Tensor, Tensor]:
        """See `Targets`; raises UserError for an utterance without embeddings."""
        return self.store.targets_for(ids, lens, ratio=self.ratio, delay=self.delay)


class LiveEmbeddings:
    """The teacher listens along: nothing is stored, and every pass over the data pays for it.

    Args:
        teacher: frozen, on the device of the training.
        layer: of the teacher, 1-based.
        cuts: with the audio of every utterance, without the student's augmentation.
        student_rate: student frames a second, Hz.
        delay: student frames by which the student is late.

    Attributes:
        ratio: teacher frames for a student frame.
    """

    def __init__(
        self,
        teacher: Teacher,
        layer: int,
        cuts: AudioCuts,
        *,
        student_rate: float = ENCODER_RATE,
        delay: int = 0,
    ) -> None:
        self._teacher = teacher
        self._layer = layer
        self._cuts = cuts
        self._numbers = {utterance: number for number, utterance in enumerate(cuts.ids)}
        self.ratio = require_ratio(teacher.frame_rate, student_rate)
        self.delay = delay

    def __call__(self, ids: Sequence[str], lens: Tensor) -> tuple[Tensor, Tensor]:
        """See `Targets`; raises UserError for an utterance without audio."""
        if missing := [utterance for utterance in ids if utterance not in self._numbers]:
            raise UserError(
                f"the teacher has no audio of utterance {missing[0]}",
                remedy="train on cuts with audio, or on stored targets",
            )
        waves = [torch.from_numpy(self._cuts.samples(self._numbers[name])) for name in ids]
        samples = torch.tensor([len(wave) for wave in waves])
        # The teacher's weights are float32 or what it was loaded with, whatever the student's
        # precision is.
        with torch.no_grad(), torch.autocast(lens.device.type, enabled=False):
            output = self._teacher(
                pad_sequence(waves, batch_first=True).to(lens.device), samples.to(lens.device)
            )
        rows = output.layers[self._layer]
        return stack_frames(
            ids,
            [row[:length] for row, length in zip(rows, output.lens.tolist(), strict=True)],
            lens,
            ratio=self.ratio,
            delay=self.delay,
            source="the teacher's output",
        )
