"""From the sections `distillation.outputs` and `distillation.dual_mode` to losses."""

from __future__ import annotations

from pathlib import Path

import torch

from mvqkd.distillation import DualMode, OutputDistillation, OutputTeacher
from mvqkd.errors import UserError
from mvqkd.geometry import NUM_BINS
from mvqkd.recipe.config.outputs_schema import OutputsConfig
from mvqkd.recipe.config.schema import ExperimentConfig
from mvqkd.recipe.distillation import OpenedLoss
from mvqkd.recipe.full_context_teacher import load_full_context
from mvqkd.recipe.run_folder import check_tokens_of


def open_outputs(
    name: str,
    loss: OutputsConfig,
    teacher: str,
    lang_dir: Path,
    *,
    device: torch.device,
    num_bins: int = NUM_BINS,
) -> OpenedLoss:
    """Load the teacher and check that the student can learn its tokens' probabilities.

    Args:
        name: of the loss.
        loss: its section of the configuration, which is on.
        teacher: URI with folder and weights, see `resolve_teacher`.
        lang_dir: the student's tokens.
        device: of the training.
        num_bins: C, of the student's features.

    Raises:
        UserError: see `load_full_context`; or a teacher of other tokens, or without a transducer.
    """
    section = f"distillation.{name}"
    encoder, transducer = load_full_context(
        section, teacher, None, device=device, num_bins=num_bins
    )
    if transducer is None:
        raise UserError(
            f"the teacher {teacher} has no transducer, whose probabilities are to be imitated",
            remedy=f"--{section}.teacher with an experiment that has one",
        )
    folder = Path(teacher.partition(":")[2].partition("?")[0])
    try:
        check_tokens_of(folder, lang_dir)
    except UserError as error:
        raise UserError(
            f"{section}.teacher is {teacher}, whose tokens are not the student's: {error.problem}",
            remedy="take a teacher that was trained with the student's tokens: the same "
            "--vocab-size and data.labelled_hours",
        ) from error

    def build(dim: int) -> OutputDistillation:
        return OutputDistillation(
            OutputTeacher(encoder, transducer),
            weight=loss.weight,
            final_weight_fraction=loss.final_weight_fraction,
            best_path=loss.cells == "best_path",
            collapsed=loss.distribution == "collapsed",
            delay=loss.target_delay,
        )

    return OpenedLoss(
        source=None,
        validates=True,
        description={"teacher": teacher, "bytes_per_hour": 0.0},
        build=build,
        clean_features=True,
    )


def open_dual_mode(config: ExperimentConfig) -> OpenedLoss:
    """The divergence between two passes of the student.

    Args:
        config: of an experiment in which the section is on.
    """
    loss = config.distillation.dual_mode
    return OpenedLoss(
        source=None,
        validates=True,
        description={"teacher": "the student itself", "bytes_per_hour": 0.0},
        build=lambda dim: DualMode(
            weight=loss.weight,
            final_weight_fraction=loss.final_weight_fraction,
            kind=loss.kind,
            symmetric=loss.direction == "symmetric",
            collapsed=loss.distribution == "collapsed",
            topology=config.loss.topology,
            backend=config.loss.backend,
        ),
    )
