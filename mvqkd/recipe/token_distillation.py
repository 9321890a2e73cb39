"""From the section `distillation.tokens` to a loss with a teacher that runs beside the student."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs

import torch
from torch import nn

from mvqkd.checkpoints.load import load_model
from mvqkd.distillation.decoder_outputs import DecoderTeacher, TokenDivergence
from mvqkd.errors import UserError
from mvqkd.geometry import NUM_BINS
from mvqkd.models import StreamingConfig
from mvqkd.recipe.config.attention_schema import TokensConfig
from mvqkd.recipe.distillation import OpenedLoss
from mvqkd.recipe.run_folder import check_tokens_of
from mvqkd.teachers import load_teacher
from mvqkd.teachers.own import ConformerTeacher


def open_tokens(
    loss: TokensConfig,
    teacher: str,
    lang_dir: Path,
    *,
    device: torch.device,
    num_bins: int = NUM_BINS,
) -> OpenedLoss:
    """Load the teacher and check that it has a decoder with the student's tokens.

    Args:
        loss: the section of the configuration, which is on.
        teacher: URI with folder and weights, see `resolve_teacher`.
        lang_dir: folder of the student's tokens.
        device: of the training.
        num_bins: C, of the student's features.

    Raises:
        UserError: the teacher is no experiment of ours, has no attention decoder, or other tokens
            or features.
    """
    section = "distillation.tokens"
    loaded = load_teacher(teacher)  # checks what it is and its weights
    if not isinstance(loaded, ConformerTeacher):
        raise UserError(
            f"{section}.teacher is {teacher}: no experiment of ours",
            remedy=f"--{section}.teacher mvqkd:EXPERIMENT",
        )
    name, _, query = teacher.partition(":")[2].partition("?")
    folder, options = Path(name), parse_qs(query)
    epoch = int(options["epoch"][0]) if "epoch" in options else None
    model = load_model(folder, epoch, int(options.get("avg", ["1"])[0]) if epoch else 1)
    if model.attention is None:
        raise UserError(
            f"the teacher {teacher} has no attention decoder: it was trained with "
            f"{', '.join(model.heads)}",
            remedy="a teacher with loss.attention_scale",
        )
    check_tokens_of(folder, lang_dir)
    if model.encoder.input_dim != num_bins:
        raise UserError(
            f"the teacher {teacher} receives features of {model.encoder.input_dim} bins, the "
            f"student of {num_bins}",
            remedy="take a teacher that was trained on the student's features",
        )
    decoder_teacher = DecoderTeacher(
        model.encoder.to(device),
        model.attention.to(device),
        streaming=StreamingConfig(loaded.chunk_size, loaded.left_context),
    )

    def build(dim: int) -> nn.Module:
        return TokenDivergence(
            decoder_teacher,
            weight=loss.weight,
            final_weight_fraction=loss.final_weight_fraction,
            temperature=loss.temperature,
        )

    return OpenedLoss(
        source=None,
        validates=True,
        description={"teacher": teacher, "bytes_per_hour": 0.0},
        build=build,
        clean_features=True,
    )
