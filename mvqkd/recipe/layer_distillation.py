"""From the section `distillation.layers` to a loss with a teacher that runs beside the student."""

from __future__ import annotations

import logging
import math
from typing import cast

import torch
from torch import nn

from mvqkd.distillation import AuxiliaryLayers, EncoderTeacher
from mvqkd.errors import UserError
from mvqkd.models import ConformerEncoder
from mvqkd.models.auxiliary_branch import AuxiliaryBranch, ProjectionBranch
from mvqkd.models.conformer_layer import ConformerLayer
from mvqkd.recipe.config.layers_schema import LayersConfig
from mvqkd.recipe.distillation import OpenedLoss
from mvqkd.teachers import load_teacher
from mvqkd.teachers.own import ConformerTeacher

Pairs = list[tuple[int, int]]
"""(layer of the teacher, layer of the student), 1-based."""


def open_layers(
    name: str, loss: LayersConfig, teacher: str, *, num_layers: int, device: torch.device
) -> OpenedLoss:
    """Load the teacher and check that the student can learn from it.

    Args:
        name: of the loss.
        loss: its section of the configuration, which is on.
        teacher: URI with folder and weights, see `resolve_teacher`.
        num_layers: of the student.
        device: of the training.

    Raises:
        UserError: a teacher that is not our own, or sees chunks only, or lacks a layer.
    """
    section = f"distillation.{name}"
    loaded = load_teacher(teacher, loss.teacher_layer or None, device=device)
    if not isinstance(loaded, ConformerTeacher):
        raise UserError(
            f"{section}.teacher is {teacher}: no experiment of ours",
            remedy=f"--{section}.teacher mvqkd:EXPERIMENT",
        )
    if loaded.chunk_size is not None:
        raise UserError(
            f"the teacher {teacher} attends to chunks of {loaded.chunk_size} frames; auxiliary "
            "layers imitate one with full context",
            remedy="take an experiment without model.chunk_size; one that was trained with chunks "
            "and with the whole utterance (-1) too is mvqkd:EXPERIMENT?chunk_size=-1",
        )
    encoder = loaded.encoder
    pairs = quarters(encoder.num_layers, num_layers)
    if loss.layer:
        pairs = list(zip(loss.teacher_layer, loss.layer, strict=True))
    if not isinstance(encoder, ConformerEncoder):
        raise UserError(
            f"{section}.teacher {teacher} has no Conformer layers to imitate: its encoder is "
            "recurrent",
            remedy="another teacher",
        )
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
        return AuxiliaryLayers(
            pairs,
            [_branch(loss, dim, encoder, heads) for _ in pairs],
            EncoderTeacher(encoder, layers, relations=loss.relation_weight > 0),
            weight=loss.weight,
            final_weight_fraction=loss.final_weight_fraction,
            feature_weight=loss.feature_weight,
            relation_weight=loss.relation_weight,
            future_weight=loss.future_weight,
            shift=loss.future_shift,
        )

    return OpenedLoss(
        source=None,
        validates=True,
        description={"teacher": teacher, "pairs": pairs, "bytes_per_hour": 0.0},
        build=build,
        clean_features=True,
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
    loss: LayersConfig, dim: int, encoder: ConformerEncoder, heads: int
) -> AuxiliaryBranch | ProjectionBranch:
    if loss.branch == "projection":
        return ProjectionBranch(dim, encoder.dim)
    predicts = loss.future_weight > 0
    return AuxiliaryBranch(
        input_dim=dim,
        dim=encoder.dim,
        num_heads=loss.num_heads or heads,
        feedforward_dim=loss.feedforward_dim or 4 * encoder.dim,
        dropout=loss.dropout,
        gap=loss.future_shift if predicts else 0,
        predicts=predicts,
    )
