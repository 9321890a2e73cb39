"""All distillation losses of an experiment, opened before its training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from mvqkd.recipe.distillation import OpenedLoss, Utterances, count_frames, open_loss
from mvqkd.recipe.inputs import ExperimentInputs
from mvqkd.recipe.layer_distillation import open_layers
from mvqkd.recipe.token_distillation import open_tokens


def open_losses(
    inputs: ExperimentInputs,
    train_cuts: Sequence[Path],
    dev_cuts: Sequence[Path],
    device: torch.device,
    *,
    lang_dir: Path,
) -> dict[str, OpenedLoss]:
    """The losses that are on, by name.

    Args:
        inputs: the experiment.
        train_cuts: manifests of all that is trained on, with transcripts or without.
        dev_cuts: those of validation.
        device: of the training.
        lang_dir: folder of the tokens.

    Raises:
        UserError: targets are missing, damaged, or not those of the configuration, or a teacher
            from which the student cannot learn.
    """
    opened: dict[str, OpenedLoss] = {}
    if inputs.frame_losses:
        utterances = Utterances(train=count_frames(train_cuts), dev=count_frames(dev_cuts))
        for name, loss in inputs.frame_losses.items():
            opened[name] = open_loss(
                name,
                loss,
                inputs.teacher_files(loss),
                utterances=utterances,
                cuts=[*train_cuts, *dev_cuts],
                device=device,
            )
    if (layers := inputs.config.distillation.layers).weight:
        opened["layers"] = open_layers(
            "layers",
            layers,
            inputs.teacher(layers),
            num_layers=inputs.config.model.num_layers,
            device=device,
        )
    if (tokens := inputs.config.distillation.tokens).weight:
        opened["tokens"] = open_tokens(tokens, inputs.teacher(tokens), lang_dir, device=device)
    return opened
