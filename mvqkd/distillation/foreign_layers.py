"""Layers of a teacher that receives audio, or stored frames of one of its layers, in place of an
encoder of our own beside the student."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mvqkd.data.targets.frame_targets import Waveforms
from mvqkd.data.targets.teacher_frames import Pairing, match_frames
from mvqkd.distillation.context import LossContext
from mvqkd.distillation.encoder_teacher import PARTS, LayerTargets
from mvqkd.distillation.layer import TeacherTargets
from mvqkd.models import Taps
from mvqkd.teachers.interface import Teacher


class AudioLayers:
    """Layers of a frozen teacher of waveforms, such as Whisper or HuBERT, at the student's frame
    rate.

    The `ratio` teacher frames of a student frame stand side by side: features (N, T, ratio D), and
    queries, keys and values of every head (N, H, T, ratio d). A teacher's frames are normalized
    each to zero mean and unit variance, since the scales of networks differ by orders of magnitude.

    Args:
        name: of the audio in the batch.
        teacher: frozen, on the training device, and no submodule of any module.
        layers: 1-based.
        pairing: of teacher and student frames, without delay.
        num_heads: H of the teacher's recorded attention; None: no relations.
    """

    def __init__(
        self,
        name: str,
        teacher: Teacher,
        layers: Sequence[int],
        *,
        pairing: Pairing,
        num_heads: int | None,
    ) -> None:
        self.name = name
        self.pairing = pairing
        self._teacher = teacher
        self._layers = list(layers)
        self._num_heads = num_heads

    def __call__(self, context: LossContext) -> LayerTargets:
        """See `LayerTargets`."""
        views = context.batch.views
        audio = context.batch.targets[self.name]
        assert isinstance(audio, Waveforms)
        once = len(context.batch) // views
        samples, lens = audio.samples[:once], audio.lens[:once]
        with torch.no_grad(), torch.autocast(samples.device.type, enabled=False):
            output = self._teacher(samples, lens)
        # On the CPU, so that nothing waits for the device.
        frames = self._teacher.output_lens(torch.tensor(audio.num_samples[:once])).tolist()
        spans = [
            match_frames(
                utterance,
                length,
                student_len,
                pairing=self.pairing,
                tolerance=3,
                source="the teacher's output",
            )
            for utterance, length, student_len in zip(
                context.batch.ids, frames, audio.student_lens, strict=False
            )
        ]
        begin = spans[0].begin
        found = torch.tensor([begin + span.length for span in spans], device=samples.device)
        names = [f"layers.{layer}" for layer in self._layers]
        taps = Taps([*names, *(f"{name}.{part}" for name in names for part in PARTS)])
        num_frames = max(audio.student_lens)
        for layer, name in zip(self._layers, names, strict=True):
            grouped = self._group(output.layers[layer].float(), num_frames)
            taps.put(name, normalized(grouped).flatten(2).repeat(views, 1, 1))
            if self._num_heads is not None:
                for part in PARTS:
                    x = self._group(output.layers[layer, part].float(), num_frames)
                    heads = x.unflatten(3, (self._num_heads, -1)).permute(0, 3, 1, 2, 4).flatten(3)
                    taps.put(f"{name}.{part}", heads.repeat(views, 1, 1, 1))
        return LayerTargets(taps, found.repeat(views), begin)

    def _group(self, x: Tensor, num_frames: int) -> Tensor:
        """(N, T', W) teacher frames -> (N, num_frames, ratio, W), zero where there are none."""
        ratio, offset, _ = self.pairing
        missing = ratio * num_frames + offset - x.size(1)
        x = F.pad(x, (0, 0, max(0, -offset), max(0, missing)))
        first = max(0, offset)
        return x[:, first : first + ratio * num_frames].unflatten(1, (num_frames, ratio))


class StoredLayer:
    """Stored frames of one layer of a teacher, normalized as those of `AudioLayers`; no relations.

    Args:
        layer: of the teacher, 1-based.
        targets: the frames, (M, ratio D).
        pairing: of teacher and student frames, without delay.
    """

    def __init__(self, layer: int, targets: TeacherTargets, pairing: Pairing) -> None:
        self._name = f"layers.{layer}"
        self._targets = targets
        self._pairing = pairing

    def __call__(self, context: LossContext) -> LayerTargets:
        """See `LayerTargets`."""
        targets = self._targets(context)
        values, present = targets.padded(len(context.batch))
        taps = Taps([self._name])
        frames = values.float().unflatten(2, (self._pairing.ratio, -1))
        taps.put(self._name, normalized(frames).flatten(2))
        begin = max(0, -(self._pairing.offset // self._pairing.ratio))
        return LayerTargets(taps, present.sum(1) + begin * present.any(1), begin)


def normalized(x: Tensor) -> Tensor:
    """(..., D) frames of zero mean and unit variance over their dimensions."""
    return F.layer_norm(x, x.shape[-1:])
