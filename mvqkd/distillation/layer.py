"""Distillation at a layer of the student's encoder."""

from __future__ import annotations

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
    """Compare a layer of the student with the teacher, frame by frame: a `DistillationLoss`.

    On masked frames alone distillation is of no use, on all frames it is (measured in arXiv
    2211.00508, section 4), so both weights are 1 by default.

    Args:
        layer: of the student's encoder, 1-based; 0 is the input of the first.
        head: (M, D) student frames and (M, W) targets -> (M,) float32 losses.
        targets: the teacher's side.
        weight: of the loss in the total.
        masked_weight: weight of frames whose input SpecAugment masked in time.
        unmasked_weight: weight of the others.
        validates: whether there are targets of validation data too.
    """

    def __init__(
        self,
        layer: int,
        head: nn.Module,
        targets: TeacherTargets,
        *,
        weight: float,
        masked_weight: float = 1.0,
        unmasked_weight: float = 1.0,
        validates: bool = True,
    ) -> None:
        super().__init__()
        self.tap = f"layers.{layer}"
        self.taps = [self.tap]
        self.head = head
        self.targets = targets
        self.weight = weight
        self.masked_weight = masked_weight
        self.unmasked_weight = unmasked_weight
        self.validates = validates

    def forward(self, context: LossContext) -> Tensor:
        """(N,) float32 losses, summed over frames."""
        x = context.taps[self.tap]
        targets = self.targets(context)
        where = (targets.utterances, targets.frames)
        losses = x.new_zeros(len(x), targets.num_frames, dtype=torch.float32)
        losses = losses.index_put(where, self.head(x[where], targets.values))
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
