"""All distillation losses of an experiment, opened before its training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from mvqkd.recipe.config.schema import EmbeddingsConfig
from mvqkd.recipe.delays import check_delays
from mvqkd.recipe.distillation import OpenedLoss, Utterances, count_frames, open_loss
from mvqkd.recipe.foreign_layer_distillation import open_audio_layers, open_stored_layer
from mvqkd.recipe.inputs import ExperimentInputs
from mvqkd.recipe.layer_distillation import open_layers
from mvqkd.recipe.output_distillation import open_dual_mode, open_outputs
from mvqkd.recipe.run_folder import features_of
from mvqkd.recipe.token_distillation import open_tokens


def open_losses(
    inputs: ExperimentInputs,
    train_cuts: Sequence[Path],
    dev_cuts: Sequence[Path],
    device: torch.device,
    lang_dir: Path,
) -> dict[str, OpenedLoss]:
    """The losses that are on, by name.

    Args:
        inputs: the experiment.
        train_cuts: manifests of all that is trained on, with transcripts or without.
        dev_cuts: those of validation.
        device: of the training.
        lang_dir: the student's tokens.

    Raises:
        UserError: targets are missing, damaged, or not those of the configuration, or a teacher
            from which the student cannot learn, or a delay that leaves no targets.
    """
    opened: dict[str, OpenedLoss] = {}
    train = count_frames(train_cuts)
    check_delays(inputs.config.distillation, train)
    num_bins = features_of([*train_cuts, *dev_cuts])["bins"]
    if inputs.frame_losses:
        utterances = Utterances(train=train, dev=count_frames(dev_cuts))
        for name, loss in inputs.frame_losses.items():
            if name == "layers":
                assert isinstance(loss, EmbeddingsConfig)
                layers = inputs.config.distillation.layers
                files = inputs.teacher_files(loss)
                opened[name] = open_stored_layer(name, layers, loss, files, utterances)
                continue
            opened[name] = open_loss(
                name,
                loss,
                inputs.teacher_files(loss),
                utterances=utterances,
                cuts=[*train_cuts, *dev_cuts],
                device=device,
            )
    layers, num_layers = inputs.config.distillation.layers, inputs.config.model.num_layers
    if layers.weight and layers.source == "teacher":
        teacher = inputs.teacher(layers)
        if teacher.startswith("mvqkd:"):
            opened["layers"] = open_layers(
                "layers",
                layers,
                teacher,
                num_layers=num_layers,
                device=device,
                num_bins=num_bins,
            )
        else:
            opened["layers"] = open_audio_layers(
                "layers",
                layers,
                teacher,
                num_layers=num_layers,
                cuts=[*train_cuts, *dev_cuts],
                device=device,
            )
    if (outputs := inputs.config.distillation.outputs).weight:
        teacher = inputs.teacher(outputs)
        opened["outputs"] = open_outputs(
            "outputs", outputs, teacher, lang_dir, device=device, num_bins=num_bins
        )
    if inputs.config.distillation.dual_mode.weight:
        opened["dual_mode"] = open_dual_mode(inputs.config)
    if (tokens := inputs.config.distillation.tokens).weight:
        opened["tokens"] = open_tokens(
            tokens, inputs.teacher(tokens), lang_dir, device=device, num_bins=num_bins
        )
    return opened
