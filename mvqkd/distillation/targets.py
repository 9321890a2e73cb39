"""The teacher's side of a batch, from what the loader's workers put into it."""

from __future__ import annotations

import torch

from mvqkd.data.targets.frame_targets import FrameTargets, Waveforms, pack
from mvqkd.data.targets.teacher_frames import Pairing
from mvqkd.distillation.context import LossContext
from mvqkd.geometry import ENCODER_GRID, FrameGrid
from mvqkd.quantization import Quantizer
from mvqkd.teachers.interface import Teacher


class StoredTargets:
    """Targets that lie in the batch under a name: codebook indexes or embeddings from files."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, context: LossContext) -> FrameTargets:
        """See `TeacherTargets`."""
        targets = context.batch.targets[self.name]
        assert isinstance(targets, FrameTargets)
        return targets


class DecodedCodes:
    """The embeddings that a quantizer decodes from the codes in the batch, for regression on a few
    bytes a frame: (M, ratio * D) float32.

    Args:
        name: of the codes in the batch.
        quantizer: of these codes; frozen, and not a submodule of any module.
        ratio: teacher frames for a student frame.
    """

    def __init__(self, name: str, quantizer: Quantizer, ratio: int) -> None:
        self._codes = StoredTargets(name)
        self._quantizer = quantizer
        self._ratio = ratio

    def __call__(self, context: LossContext) -> FrameTargets:
        """See `TeacherTargets`."""
        targets = self._codes(context)
        quantizer = self._quantizer.to(targets.values.device)
        codes = targets.values.unflatten(1, (self._ratio, -1))
        return FrameTargets(
            quantizer.decode(codes).flatten(1),
            targets.utterances,
            targets.frames,
            targets.num_frames,
        )


class OnlineTeacher:
    """The embeddings that the teacher computes from the audio in the batch: nothing is stored, but
    every epoch computes them again.

    Args:
        name: of the audio in the batch.
        teacher: frozen, and not a submodule of any module; on the training device.
        layer: of the teacher, 1-based.
        student: grid of the student's frames.
        delay: target delay in student frames.

    Attributes:
        pairing: of teacher and student frames.

    Raises:
        UserError: frame rates without an integer ratio.
    """

    def __init__(
        self,
        name: str,
        teacher: Teacher,
        layer: int,
        *,
        student: FrameGrid = ENCODER_GRID,
        delay: int = 0,
    ) -> None:
        self.name = name
        self._teacher = teacher
        self._layer = layer
        self.pairing = Pairing.of(
            teacher.frame_rate, teacher.first_frame, student=student, delay=delay
        )

    def __call__(self, context: LossContext) -> FrameTargets:
        """See `TeacherTargets`."""
        views = context.batch.views
        audio = context.batch.targets[self.name]
        assert isinstance(audio, Waveforms)
        once = len(context.batch) // views  # all views of an utterance are the same
        samples, lens = audio.samples[:once], audio.lens[:once]
        # The teacher's weights are float32 or what it was loaded with, whatever the student's
        # precision is.
        with torch.no_grad(), torch.autocast(samples.device.type, enabled=False):
            output = self._teacher(samples, lens)
        # On the CPU, so that nothing waits for the device.
        frames = self._teacher.output_lens(torch.tensor(audio.num_samples[:once])).tolist()
        rows = output.layers[self._layer]
        targets = pack(
            context.batch.ids[:once],
            [row[:length].float() for row, length in zip(rows, frames, strict=True)],
            audio.student_lens[:once],
            pairing=self.pairing,
            source="the teacher's output",
        )
        return targets.repeat(views, once)
