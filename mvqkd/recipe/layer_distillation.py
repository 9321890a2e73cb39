"""From the section `distillation.layers` to a loss with a teacher that runs beside the student."""

from __future__ import annotations

import logging
import math
from typing import cast

import torch
from torch import nn

from mvqkd.distillation import AuxiliaryLayers, EncoderTeacher
from mvqkd.distillation.encoder_teacher import LayerTeacher
from mvqkd.errors import UserError
from mvqkd.geometry import NUM_BINS
from mvqkd.models.auxiliary_branch import AuxiliaryBranch, ProjectionBranch
from mvqkd.models.conformer_layer import ConformerLayer
from mvqkd.recipe.config.layers_schema import LayersConfig
from mvqkd.recipe.distillation import OpenedLoss
from mvqkd.recipe.full_context_teacher import load_full_context

Pairs = list[tuple[int, int]]
"""(layer of the teacher, layer of the student), 1-based."""


def open_layers(
    name: str,
    loss: LayersConfig,
    teacher: str,
    *,
    num_layers: int,
    device: torch.device,
    num_bins: int = NUM_BINS,
) -> OpenedLoss:
    """Load the teacher and check that the student can learn from it.

    Args:
        name: of the loss.
        loss: its section of the configuration, which is on.
        teacher: URI with folder and weights, see `resolve_teacher`.
        num_layers: of the student.
        device: of the training.
        num_bins: C, of the student's features.

    Raises:
        UserError: a teacher that is not our own, or sees chunks only, or lacks a layer.
    """
    section = f"distillation.{name}"
    encoder, _ = load_full_context(
        section, teacher, loss.teacher_layer or None, device=device, num_bins=num_bins
    )
    pairs = quarters(encoder.num_layers, num_layers)
    if loss.layer:
        pairs = list(zip(loss.teacher_layer, loss.layer, strict=True))
    heads = cast(ConformerLayer, encoder.layers[0]).attention.num_heads
    if encoder.dim % (loss.num_heads or heads):
        raise UserError(
            f"{section}.num_heads is {loss.num_heads}, which does not divide the teacher's width "
            f"of {encoder.dim}",
            remedy=f"--{section}.num_heads 0 for the teacher's {heads}, or another divisor",
        )
    logging.info(
        "%s: layers of %s -> layers of the student: %s",
        section,
        teacher,
        ", ".join(f"{theirs} -> {own}" for theirs, own in pairs),
    )

    def build(dim: int) -> nn.Module:
        layers = dict.fromkeys(theirs for theirs, _ in pairs)
        frozen = EncoderTeacher(encoder, layers, relations=loss.relation_weight > 0)
        return build_layers(loss, pairs, frozen, dim=dim, teacher_dim=encoder.dim, heads=heads)

    return OpenedLoss(
        source=None,
        validates=True,
        description={"teacher": teacher, "pairs": pairs, "bytes_per_hour": 0.0},
        build=build,
        clean_features=True,
    )


def build_layers(
    loss: LayersConfig,
    pairs: Pairs,
    teacher: LayerTeacher,
    *,
    dim: int,
    teacher_dim: int,
    heads: int,
    validates: bool = True,
) -> AuxiliaryLayers:
    """The loss, with branches of random weights.

    Args:
        loss: section of the configuration.
        pairs: of layers.
        teacher: with these layers.
        dim: width of the student's layers.
        teacher_dim: width of what `teacher` gives.
        heads: of its attention.
        validates: whether validation batches have the teacher's side too.
    """
    return AuxiliaryLayers(
        pairs,
        [_branch(loss, dim, teacher_dim, heads) for _ in pairs],
        teacher,
        weight=loss.weight,
        final_weight_fraction=loss.final_weight_fraction,
        feature_weight=loss.feature_weight,
        relation_weight=loss.relation_weight,
        future_weight=loss.future_weight,
        shift=loss.future_shift,
        validates=validates,
    )


def quarters(teacher_layers: int, student_layers: int) -> Pairs:
    """The layers at one, two, three and four quarters of both depths, rounded up: 16 and 12 give
    (4, 3), (8, 6), (12, 9) and (16, 12). A layer of a student of less than four layers is paired
    with the highest of those of the teacher that fall to it."""
    found = {
        math.ceil(student_layers * quarter / 4): math.ceil(teacher_layers * quarter / 4)
        for quarter in (1, 2, 3, 4)
    }
    return [(theirs, own) for own, theirs in found.items()]


def _branch(
    loss: LayersConfig, dim: int, teacher_dim: int, heads: int
) -> AuxiliaryBranch | ProjectionBranch:
    if loss.branch == "projection":
        return ProjectionBranch(dim, teacher_dim)
    predicts = loss.future_weight > 0
    return AuxiliaryBranch(
        input_dim=dim,
        dim=teacher_dim,
        num_heads=loss.num_heads or heads,
        feedforward_dim=loss.feedforward_dim or 4 * teacher_dim,
        dropout=loss.dropout,
        gap=loss.future_shift if predicts else 0,
        predicts=predicts,
    )
