"""Experiments of ours as teachers that run beside a student, on its features."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mvqkd.errors import UserError
from mvqkd.geometry import ENCODER_RATE, NUM_BINS
from mvqkd.models import ConformerEncoder, TransducerHead
from mvqkd.teachers import load_teacher
from mvqkd.teachers.own import ConformerTeacher


def load_full_context(
    section: str,
    teacher: str,
    layers: Sequence[int] | None,
    *,
    device: torch.device,
    num_bins: int = NUM_BINS,
) -> tuple[ConformerEncoder, TransducerHead | None]:
    """Load a teacher that attends to whole utterances of the student's features, frame by frame.

    Args:
        section: of the configuration, for errors.
        teacher: URI with folder and weights, see `resolve_teacher`.
        layers: that are wanted; None: all.
        device: of the training.
        num_bins: C, of the student's features.

    Returns:
        Its encoder, and its transducer head if it has one.

    Raises:
        UserError: a teacher that is not our own, or no Conformer, or attends to chunks only, or has
            other features or another frame rate, or lacks a layer.
    """
    loaded = load_teacher(teacher, layers, device=device)
    if not isinstance(loaded, ConformerTeacher):
        raise UserError(
            f"{section}.teacher is {teacher}: no experiment of ours",
            remedy=f"--{section}.teacher mvqkd:EXPERIMENT",
        )
    if not isinstance(loaded.encoder, ConformerEncoder):
        raise UserError(
            f"{section}.teacher {teacher} has no Conformer layers to imitate: its encoder is "
            "recurrent",
            remedy="another teacher",
        )
    if loaded.chunk_size is not None:
        raise UserError(
            f"the teacher {teacher} attends to chunks of {loaded.chunk_size} frames; the student "
            "is to imitate one with full context",
            remedy="take an experiment without model.chunk_size; one that was trained with chunks "
            "and with the whole utterance (-1) too is mvqkd:EXPERIMENT?chunk_size=-1",
        )
    found = (loaded.encoder.input_dim, loaded.frame_rate)
    if found != (num_bins, ENCODER_RATE):
        raise UserError(
            f"the teacher {teacher} makes {found[1]:g} frames a second of {found[0]} bins, the "
            f"student {ENCODER_RATE:g} of {num_bins}",
            remedy="take a teacher with the student's features and frame rate",
        )
    return loaded.encoder, loaded.transducer
