#!/usr/bin/env python3
"""Train an experiment on one or many processes.

    python local/train.py --config egs/mini/conf/baseline.yaml --data-dir data/mini \\
        --prefix mini --vocab-size 40 --train-parts train-mini --dev-parts dev-mini \\
        --exp-dir exp/mini/baseline
    torchrun --nproc-per-node 4 local/train.py ...

Run again, it goes on from the newest checkpoint; a finished training costs nothing. Exits with
status 75 when a signal stopped it (torchrun makes 1 of that): the same command goes on.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

from mvqkd.data.parts import expand_parts, stored_parts
from mvqkd.errors import UserError
from mvqkd.experiment.check import check_training
from mvqkd.experiment.config import ExperimentConfig
from mvqkd.experiment.folder import (
    check_folder,
    check_tokens_of,
    describe_data,
    record_start,
    write_folder,
    write_teaching,
)
from mvqkd.experiment.parser import ExperimentParser
from mvqkd.experiment.program import flatten, list_option, run_program
from mvqkd.experiment.teaching import TeachingFiles, teaching_files
from mvqkd.locks import own_folder


def main() -> None:
    parser = ExperimentParser(__doc__)
    add = parser.options.add_argument
    add("--exp-dir", type=Path, required=True, help="folder of the experiment")
    add("--data-dir", type=Path, required=True, help="prepared data")
    add("--prefix", default="librispeech", help="of the names of the data's files")
    # Not of type list_option: jsonargparse applies a type to its own results again.
    add("--train-parts", type=str, nargs="+", required=True, help="names or patterns of parts")
    add("--dev-parts", type=str, nargs="+", required=True, help="to validate on")
    add("--unlabelled-parts", type=str, nargs="*", default=[], help="audio for distillation alone")
    add("--vocab-size", type=int, default=500, help="tokens are <data-dir>/lang_bpe_<vocab-size>")
    add("--device", default="", help="cpu or cuda (default: cuda where there is a GPU)")
    experiment, options = parser.parse()

    exp_dir, data_dir = options.exp_dir, options.data_dir
    lang_dir = data_dir / f"lang_bpe_{options.vocab_size}"
    fbank = data_dir / "fbank"
    train_cuts, dev_cuts, unlabelled_cuts = (
        find_cuts(fbank, options.prefix, flatten(map(list_option, parts)))
        for parts in (options.train_parts, options.dev_parts, options.unlabelled_parts)
    )
    # Experiments that learn nothing from them are the same with and without.
    teaches = experiment.distillation.method != "none"
    if unlabelled_cuts and teaches and not experiment.data.unlabelled_ratio:
        logging.warning(
            "data.unlabelled_ratio is 0: nothing is learned from the parts without transcripts "
            "(--data.unlabelled_ratio 1: as many of their batches as others)"
        )
    if not (teaches and experiment.data.unlabelled_ratio):
        unlabelled_cuts = []
    cuts = Cuts(train_cuts, dev_cuts, unlabelled_cuts, fbank / "musan_cuts.jsonl.gz")
    data = describe_data(cuts.train, cuts.dev, lang_dir, cuts.unlabelled)
    files = None
    if experiment.distillation.method != "none":
        files = teaching_files(experiment.distillation, data_dir, exp_dir.parent)
        data["teacher"] = files.teacher
    try:
        check_training(experiment)
        if experiment.training.init:
            check_tokens_of(Path(experiment.training.init).parent, lang_dir)
        if check_folder(exp_dir, experiment, data):
            logging.info("%s is trained already", exp_dir)
            return
    except UserError:
        if os.environ.get("RANK", "0") != "0":  # the first process says it
            sys.exit(1)
        raise
    train(experiment, exp_dir, cuts, lang_dir, files, data, options.device or None)


class Cuts(NamedTuple):
    """Manifests."""

    train: list[Path]
    dev: list[Path]
    unlabelled: list[Path]
    musan: Path


def find_cuts(fbank: Path, prefix: str, patterns: list[str]) -> list[Path]:
    """Manifests of the parts that the patterns name."""
    found = stored_parts(fbank, prefix, "cuts")
    parts = expand_parts(patterns, found, fbank, remedy="./run.sh --stop-stage 3")
    return [fbank / f"{prefix}_cuts_{part}.jsonl.gz" for part in parts]


def train(
    experiment: ExperimentConfig,
    exp_dir: Path,
    cuts: Cuts,
    lang_dir: Path,
    files: TeachingFiles | None,
    data: dict[str, object],
    device: str | None,
) -> None:
    # Not before: a wrong option or a finished training is told without waiting for torch.
    from mvqkd.checkpoints.files import steps
    from mvqkd.checkpoints.pretrained import begin_with, write_pretrained
    from mvqkd.data import Tokenizer
    from mvqkd.experiment import build
    from mvqkd.experiment.build_distillation import Distillation
    from mvqkd.training.distributed import start_world
    from mvqkd.training.interruption import EXIT_INTERRUPTED, listen
    from mvqkd.training.logs import log_to
    from mvqkd.training.trainer import Trainer

    # Before the processes meet: the first one's refusal ends them all.
    own: AbstractContextManager[None] = nullcontext()
    if os.environ.get("RANK", "0") == "0":
        remedy = "wait for its end, stop it, or train in another folder (run.sh: --variant)"
        own = own_folder(exp_dir, work="training", remedy=remedy)
    with own, start_world(device) as world, listen() as interruption, log_to(exp_dir, world):
        distillation = None
        if files is not None:
            distillation = Distillation(
                experiment.distillation,
                experiment.model,
                files,
                train_cuts=[*cuts.train, *cuts.unlabelled],
                dev_cuts=cuts.dev,
                device=world.device,
                share=(world.rank, world.size),
            )
        world.wait()  # nothing is written before every process has looked at the folder
        if world.is_main:
            if distillation is not None:  # may refuse: first
                write_teaching(exp_dir, distillation.description)
            write_folder(exp_dir, experiment, data)
            start = record_start(exp_dir, world.size)
            logging.info("%s", ", ".join(f"{name} {value}" for name, value in start.items()))
        tokenizer = Tokenizer.load(lang_dir)
        description = build.describe_model(experiment, tokenizer.vocab_size)
        objective = build.build_objective(
            experiment, tokenizer.vocab_size, distillation.build if distillation else None
        ).to(world.device)
        if experiment.training.init and not steps(exp_dir):
            begin_with(objective.model, experiment.training.init)
        logging.info(
            "%.2f M parameters, of which the student has %.2f M",
            *(sum(p.numel() for p in m.parameters()) / 1e6 for m in (objective, objective.model)),
        )
        updater = build.build_updater(experiment, objective, world=world, log_dir=exp_dir / "log")
        trainer = Trainer(
            updater,
            experiment.training,
            exp_dir=exp_dir,
            train_batches=build.build_train_batches(
                experiment,
                cuts.train,
                lang_dir,
                unlabelled_cuts=cuts.unlabelled,
                targets=distillation.sources if distillation else {},
                musan=cuts.musan,
                rank=world.rank,
                world_size=world.size,
            ),
            valid_batches=build.ValidBatches(
                experiment.data,
                cuts.dev,
                lang_dir,
                targets=distillation.validation_sources if distillation else {},
                rank=world.rank,
                world_size=world.size,
            ),
            learning_rate=build.build_schedule(experiment.optimizer),
            description=description,
            transcribe=build.build_transcriber(tokenizer),
            batching=build.describe_batching(experiment),
        )
        if not trainer.run(interruption):
            sys.exit(EXIT_INTERRUPTED)
        if world.is_main:
            write_pretrained(
                exp_dir,
                epoch=experiment.decoding.epoch,
                avg=experiment.decoding.avg,
                use_averaged_model=experiment.decoding.use_averaged_model,
            )


if __name__ == "__main__":
    run_program(main)
