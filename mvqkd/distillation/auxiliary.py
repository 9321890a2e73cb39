"""Distillation through auxiliary non-streaming branches (Shim, Lee, Chang and Hwang 2023, arXiv
2308.16415)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mvqkd.distillation.context import LossContext
from mvqkd.distillation.encoder_teacher import PARTS, LayerTeacher
from mvqkd.distillation.imitation import feature_loss, future_loss
from mvqkd.distillation.relations import regroup_heads, relation_loss
from mvqkd.models import Taps
from mvqkd.models.auxiliary_branch import AuxiliaryBranch, ProjectionBranch


class AuxiliaryLayers(nn.Module):
    """Branches on layers of the student imitate layers of a teacher with full context: a
    `DistillationLoss`. For each pair of layers

        alpha L_features + beta (L_queries + L_keys + L_values) + gamma L_future,

    see `feature_loss`, `relation_loss` and `future_loss`; over pairs they are summed. Relations are
    those of all valid frames, of the branch too: it is its attention that does not see the answer
    to the prediction, not its queries, keys and values.

    Args:
        pairs: (layer of the teacher, layer of the student), 1-based.
        branches: of each pair, as wide as the teacher; with a `ProjectionBranch` there are no
            losses but that of features.
        teacher: with the layers of `pairs`.
        weight: of the loss in the total.
        final_weight_fraction: what is left of the weight at the end of the training.
        feature_weight: alpha.
        relation_weight: beta.
        future_weight: gamma; not 0: the branches predict.
        shift: n, frames from a frame to the one that is predicted from it.
        validates: whether there are targets of validation data too.

    Raises:
        ValueError: not one branch for each pair, or branches that do not predict.
    """

    parts = ("feature", "relation", "future")

    def __init__(
        self,
        pairs: Sequence[tuple[int, int]],
        branches: Sequence[AuxiliaryBranch | ProjectionBranch],
        teacher: LayerTeacher,
        *,
        weight: float = 1.0,
        final_weight_fraction: float = 1.0,
        feature_weight: float = 0.01,
        relation_weight: float = 0.0005,
        future_weight: float = 0.005,
        shift: int = 4,
        validates: bool = True,
    ) -> None:
        super().__init__()
        if len(pairs) != len(branches):
            raise ValueError(f"{len(branches)} branches for {len(pairs)} pairs of layers")
        if future_weight and not all(branch.predicts for branch in branches):
            raise ValueError("a loss of the future needs branches that predict it")
        self.pairs = list(pairs)
        self.taps = [f"layers.{layer}" for _, layer in pairs]
        self.branches = nn.ModuleList(branches)
        self.teacher = teacher
        self.weight = weight
        self.final_weight_fraction = final_weight_fraction
        self.feature_weight = feature_weight
        self.relation_weight = relation_weight
        self.future_weight = future_weight
        self.shift = shift
        self.validates = validates

    def forward(self, context: LossContext) -> Tensor:
        """(N,) float32 losses, summed over frames."""
        wanted, ends, first = self.teacher(context)
        lens = (ends - first).clamp(min=0)
        losses = context.features.new_zeros(len(context.batch), dtype=torch.float32)
        parts = dict.fromkeys(self.parts, losses)
        for (layer, _), tap, branch in zip(self.pairs, self.taps, self.branches, strict=True):
            found = branch(context.taps[tap], context.lens)
            frames = wanted[f"layers.{layer}"][:, first:]
            shown = slice(first, first + frames.size(1))
            # All parameters have a gradient, whichever losses are on: parallel processes wait for
            # them.
            last = found.out if found.future is None else found.future
            losses = losses + 0.0 * last.float().sum((1, 2))
            out = found.out[:, shown]
            if self.feature_weight:
                parts["feature"] = parts["feature"] + feature_loss(out, frames, lens)
            if self.relation_weight:
                divergence = self._relations(found.taps, wanted, layer, lens, shown)
                parts["relation"] = parts["relation"] + divergence
            if self.future_weight:
                future = future_loss(found.future[:, shown], frames, lens, self.shift)
                parts["future"] = parts["future"] + future
        weights = (self.feature_weight, self.relation_weight, self.future_weight)
        for (name, part), weight in zip(parts.items(), weights, strict=True):
            if weight:
                losses = losses + weight * part
                context.parts[name] = part
        return losses

    @staticmethod
    def _relations(found: Taps, wanted: Taps, layer: int, lens: Tensor, shown: slice) -> Tensor:
        """Of queries, keys and values, one after the other, among the frames that are shown."""
        total = lens.new_zeros(len(lens), dtype=torch.float32)
        for part in PARTS:
            teacher = wanted[f"layers.{layer}.{part}"][:, :, shown.start :]
            student = regroup_heads(found[f"attention.{part}"], teacher.size(1))[:, :, shown]
            total = total + relation_loss(student, teacher, lens)
        return total
