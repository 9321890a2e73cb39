"""Distillation at a layer of the student's encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvqkd.data.targets.frame_targets import FrameTargets
from mvqkd.distillation.context import LossContext
from mvqkd.geometry import RECEPTIVE_FIELD, SUBSAMPLING


class TeacherTargets(Protocol):
    """The teacher's side of a batch, on its device."""

    def __call__(self, context: LossContext) -> FrameTargets:
        """Targets of frames of the student."""
        ...


class LayerDistillation(nn.Module):
    """Compare layers of the student with the teacher, frame by frame: a `DistillationLoss`.

    On masked frames alone distillation is of no use, on all frames it is (measured in arXiv
    2211.00508, section 4), so both weights are 1 by default.

    Args:
        layers: of the student's encoder, 1-based; 0 is the input of the first. The loss is the mean
            of theirs.
        heads: of each layer: (M, D) student frames and (M, W) targets -> (M,) float32 losses.
        targets: the teacher's side.
        weight: of the loss in the total.
        final_weight_fraction: what is left of the weight at the end of the training.
        masked_weight: weight of frames whose input SpecAugment masked in time.
        unmasked_weight: weight of the others.
        validates: whether there are targets of validation data too.
    """

    def __init__(
        self,
        layers: Sequence[int],
        heads: Sequence[nn.Module],
        targets: TeacherTargets,
        *,
        weight: float,
        final_weight_fraction: float = 1.0,
        masked_weight: float = 1.0,
        unmasked_weight: float = 1.0,
        validates: bool = True,
    ) -> None:
        super().__init__()
        self.taps = [f"layers.{layer}" for layer in layers]
        self.heads = nn.ModuleList(heads)
        self.targets = targets
        self.weight = weight
        self.final_weight_fraction = final_weight_fraction
        self.masked_weight = masked_weight
        self.unmasked_weight = unmasked_weight
        self.validates = validates

    def forward(self, context: LossContext) -> Tensor:
        """(N,) float32 losses, summed over frames."""
        targets = self.targets(context)
        where = (targets.utterances, targets.frames)
        found = [
            head(context.taps[tap][where], targets.values)
            for tap, head in zip(self.taps, self.heads, strict=True)
        ]
        losses = context.features.new_zeros(
            len(context.batch), targets.num_frames, dtype=torch.float32
        )
        losses = losses.index_put(where, torch.stack(found).mean(0))
        if context.time_mask is not None and self.masked_weight != self.unmasked_weight:
            masked = masked_frames(context.time_mask, targets.num_frames)
            losses = losses * torch.where(masked, self.masked_weight, self.unmasked_weight)
        elif self.unmasked_weight != 1.0:
            losses = losses * self.unmasked_weight
        return losses.sum(1)


def masked_frames(time_mask: Tensor, num_frames: int) -> Tensor:
    """(N, T) bool at 100 Hz -> (N, num_frames) bool at 25 Hz: a frame of the encoder is computed
    from 7 frames of features, 4t to 4t + 6, and is masked when the one in the middle is."""
    middle = time_mask[:, RECEPTIVE_FIELD // 2 :: SUBSAMPLING][:, :num_frames]
    return F.pad(middle, (0, num_frames - middle.shape[1]))
