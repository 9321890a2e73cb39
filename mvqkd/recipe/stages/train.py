"""Stage 9: training of an experiment on one or many processes."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvqkd.errors import UserError
from mvqkd.recipe.config.rules import check_rules
from mvqkd.recipe.inputs import ExperimentInputs
from mvqkd.recipe.other_data import extra_dev_cuts, replayed_cuts
from mvqkd.recipe.run_folder import (
    check_folder,
    describe_data,
    record_start,
    write_distillation,
    write_folder,
)
from mvqkd.storage.locks import own_folder

if TYPE_CHECKING:
    from mvqkd.recipe.distillation import OpenedLoss
    from mvqkd.recipe.hypothesis_distillation import OpenedText
    from mvqkd.runtime.distributed import World


def train_experiment(
    inputs: ExperimentInputs,
    exp_dir: Path,
    *,
    vocab_size: int | None = None,
    device: str | None = None,
) -> bool:
    """Train an experiment to its end, from its newest checkpoint if there is one.

    Args:
        inputs: the experiment and its data.
        exp_dir: folder of the training.
        vocab_size: of the tokens; None: those that were prepared last.
        device: `cpu` or `cuda`; None: `cuda` where there is a GPU.

    Returns:
        Whether the end is reached; False if a signal came, after writing a checkpoint.

    Raises:
        UserError: values that do not go together, data or targets that are missing or of another
            training, or too many values that are not finite.
    """
    lang_dir = inputs.lang(vocab_size)
    experiment, losses = inputs.config, inputs.sections
    # Experiments that learn nothing from them are the same with and without.
    uses_unlabelled = bool(losses and experiment.data.unlabelled_ratio)
    if inputs.splits["unlabelled"] and losses and not uses_unlabelled:
        logging.warning(
            "data.unlabelled_ratio is 0: nothing is learned from the splits without transcripts "
            "(--data.unlabelled_ratio 1: as many of their batches as others)"
        )
    unlabelled = inputs.cuts("unlabelled") if uses_unlabelled else []
    replayed = replayed_cuts(experiment.data)
    data = describe_data(inputs.cuts("train"), inputs.cuts("dev"), lang_dir, unlabelled, replayed)
    if losses:
        teachers = {name: inputs.teacher(loss) for name, loss in losses.items()}
        data["teachers"] = teachers
    try:
        check_rules(inputs.loaded)
        if check_folder(exp_dir, experiment, data):
            logging.info("%s is trained already", exp_dir)
            return True
    except UserError:
        if os.environ.get("RANK", "0") != "0":  # the first process says it
            sys.exit(1)
        raise
    return _train(inputs, exp_dir, lang_dir, unlabelled, data, device)


def _train(
    inputs: ExperimentInputs,
    exp_dir: Path,
    lang_dir: Path,
    unlabelled: list[Path],
    data: dict[str, Any],
    device: str | None,
) -> bool:
    # Imported late: a wrong option or finished training is reported without waiting for torch.
    from mvqkd.checkpoints.files import restore_epochs, steps
    from mvqkd.checkpoints.pretrained import begin_with, write_pretrained
    from mvqkd.data.loading.tokenizer import Tokenizer, write_tokens
    from mvqkd.recipe import build
    from mvqkd.runtime.distributed import start_world
    from mvqkd.runtime.interruption import catch_signals
    from mvqkd.training.logs import log_to
    from mvqkd.training.trainer import Trainer

    experiment = inputs.config
    # Before the processes meet: the first one's refusal ends them all.
    own: AbstractContextManager[None] = nullcontext()
    if os.environ.get("RANK", "0") == "0":
        own = own_folder(exp_dir, work="training", wait=False)
    with own, start_world(device) as world, catch_signals() as interruption, log_to(exp_dir, world):
        opened = _open_losses(inputs, unlabelled, lang_dir, world)
        text = _open_text(inputs, lang_dir)
        world.wait()  # nothing is written before every process has looked at the folder
        if world.is_main:
            restore_epochs(exp_dir)
            descriptions = {name: loss.description for name, loss in opened.items()}
            if text:
                descriptions["hypotheses"] = text.description
            if descriptions:  # may refuse: first
                write_distillation(exp_dir, descriptions)
            write_folder(exp_dir, experiment, data, lang_dir)
            start = record_start(exp_dir, world.size)
            logging.info("%s", ", ".join(f"{name} {value}" for name, value in start.items()))
        tokenizer = Tokenizer.load(lang_dir)
        if world.is_main:  # of the model, which was verified, and not a copy
            write_tokens(tokenizer, exp_dir)
        num_bins = data["features"]["bins"]
        objective = build.build_objective(experiment, tokenizer.vocab_size, opened, num_bins)
        objective = objective.to(world.device)
        if experiment.training.init and not steps(exp_dir):
            begin_with(
                objective.model,
                experiment.training.init,
                tokens=tokenizer.tokens,
                head_losses=objective.head_losses,
                other_features=experiment.training.init_other_features,
            )
        logging.info(
            "%.2f M parameters, of which the student has %.2f M",
            *(sum(p.numel() for p in m.parameters()) / 1e6 for m in (objective, objective.model)),
        )
        trainer = Trainer(
            build.build_updater(experiment, objective, world=world, log_dir=exp_dir / "log"),
            experiment.training,
            exp_dir=exp_dir,
            train_steps=build.build_train_steps(
                experiment,
                inputs.cuts("train"),
                lang_dir,
                unlabelled_cuts=unlabelled,
                replayed=[
                    (one.path, one.checked_lang(lang_dir)) for one in replayed_cuts(experiment.data)
                ],
                targets={name: loss.source for name, loss in opened.items() if loss.source},
                teacher_text=text.source if text else None,
                keep_clean=any(loss.clean_features for loss in opened.values()),
                musan=inputs.data.musan_cuts,
                rank=world.rank,
                world_size=world.size,
            ),
            valid_batches=build.ValidBatches(
                experiment.data,
                inputs.cuts("dev"),
                lang_dir,
                ctc=experiment.loss.ctc_scale > 0,
                targets={
                    name: loss.source
                    for name, loss in opened.items()
                    if loss.source and loss.validates
                },
                rank=world.rank,
                world_size=world.size,
            ),
            other_valid={
                one.name: build.ValidBatches(
                    experiment.data,
                    [one.path],
                    one.checked_lang(lang_dir),
                    ctc=experiment.loss.ctc_scale > 0,
                    targets={},
                    rank=world.rank,
                    world_size=world.size,
                )
                for one in extra_dev_cuts(experiment.data)
            },
            learning_rate=build.build_schedule(
                experiment.optimizer, experiment.training.num_epochs
            ),
            description=build.describe_model(experiment, tokenizer.vocab_size, num_bins),
            transcribe=build.build_transcriber(tokenizer),
        )
        if not trainer.run(interruption):
            return False
        if world.is_main:
            write_pretrained(
                exp_dir,
                epoch=experiment.decoding.epoch,
                avg=experiment.decoding.avg,
                use_averaged_model=experiment.decoding.use_averaged_model,
            )
    return True


def _open_text(inputs: ExperimentInputs, lang_dir: Path) -> OpenedText | None:
    """The hypotheses that are trained on; None: transcripts alone."""
    section = inputs.config.distillation.hypotheses
    if not section.weight:
        return None
    from mvqkd.recipe.hypothesis_distillation import open_teacher_text

    teacher = "" if section.targets else inputs.teacher(section)
    ctc = inputs.config.loss.ctc_scale > 0
    return open_teacher_text(section, inputs.hypotheses, teacher, lang_dir, ctc=ctc)


def _open_losses(
    inputs: ExperimentInputs, unlabelled: list[Path], lang_dir: Path, world: World
) -> dict[str, OpenedLoss]:
    """The distillation losses, by name."""
    if not (inputs.losses or inputs.config.distillation.dual_mode.weight):
        return {}
    from mvqkd.recipe.opened_losses import open_losses

    train_cuts = [*inputs.cuts("train"), *unlabelled]
    return open_losses(inputs, train_cuts, inputs.cuts("dev"), world.device, lang_dir)
