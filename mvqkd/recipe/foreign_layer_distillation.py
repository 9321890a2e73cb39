"""From the section `distillation.layers` to losses with teachers that are not experiments of ours,
or whose frames are stored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from mvqkd.data.loading.audio_cuts import AudioCuts
from mvqkd.data.targets.sources import StoredAudio
from mvqkd.data.targets.teacher_frames import Pairing
from mvqkd.distillation import AudioLayers, StoredLayer
from mvqkd.errors import UserError
from mvqkd.recipe.config.layers_schema import LayersConfig
from mvqkd.recipe.config.schema import EmbeddingsConfig
from mvqkd.recipe.distillation import OpenedLoss, Utterances, open_stored, stored_frames
from mvqkd.recipe.layer_distillation import build_layers, quarters
from mvqkd.recipe.teacher_files import TeacherFiles
from mvqkd.teachers import load_teacher
from mvqkd.teachers.attention import record_attention

_HEADS = 8


def open_audio_layers(
    name: str,
    loss: LayersConfig,
    teacher: str,
    *,
    num_layers: int,
    cuts: Sequence[Path],
    device: torch.device,
) -> OpenedLoss:
    """Load a teacher of waveforms.

    Args:
        name: of the loss.
        loss: its section of the configuration, which is on.
        teacher: URI.
        num_layers: of the student.
        cuts: manifests of all that is trained on and validated, for the audio.
        device: of the training.

    Raises:
        UserError: no such teacher or layer, a frame rate that is no multiple of the student's, or a
            teacher whose attention is not known.
    """
    section = f"distillation.{name}"
    pairs = list(zip(loss.teacher_layer, loss.layer, strict=True))
    if not pairs:
        pairs = quarters(load_teacher(teacher, [0]).num_layers, num_layers)
    layers = list(dict.fromkeys(theirs for theirs, _ in pairs))
    loaded = load_teacher(teacher, layers, device=device)
    pairing = Pairing.of(loaded.frame_rate, loaded.first_frame)
    heads = record_attention(teacher, loaded, layers) if loss.relation_weight else None
    width = pairing.ratio * loaded.dim
    _check_heads(section, loss, width, heads or _HEADS)
    found = AudioLayers(name, loaded, layers, pairing=pairing, num_heads=heads)
    return OpenedLoss(
        source=StoredAudio(AudioCuts(cuts)),
        validates=True,
        description={"teacher": teacher, "pairs": pairs, "bytes_per_hour": 0.0},
        build=lambda dim: build_layers(
            loss, pairs, found, dim=dim, teacher_dim=width, heads=heads or _HEADS
        ),
    )


def open_stored_layer(
    name: str,
    loss: LayersConfig,
    stored: EmbeddingsConfig,
    files: TeacherFiles,
    utterances: Utterances,
) -> OpenedLoss:
    """Open the embeddings or codes that take a live teacher's place.

    Args:
        name: of the loss.
        loss: its section of the configuration, which is on.
        stored: what of it concerns the stored frames, see `DistillationConfig.stored_layer`.
        files: see `teacher_files`.
        utterances: of the training and of the validation.

    Raises:
        UserError: targets are missing, damaged, or of another teacher, layer or quantizer.
    """
    frames = stored_frames(name, stored, files, utterances)
    pairing = frames.source.pairing
    width = pairing.ratio * frames.dim
    _check_heads(f"distillation.{name}", loss, width, _HEADS)
    layer = stored.teacher_layer
    teacher = StoredLayer(layer, frames.targets, pairing)
    pairs = [(layer, own) for own in loss.layer]
    return open_stored(
        frames.source,
        utterances,
        lambda dim, validates: build_layers(
            loss, pairs, teacher, dim=dim, teacher_dim=width, heads=_HEADS, validates=validates
        ),
    )


def _check_heads(section: str, loss: LayersConfig, width: int, heads: int) -> None:
    if loss.branch == "transformer" and width % (loss.num_heads or heads):
        raise UserError(
            f"{section}.num_heads is {loss.num_heads or heads}, which does not divide the width "
            f"{width} of the teacher",
            remedy=f"--{section}.num_heads with a divisor of it",
        )
