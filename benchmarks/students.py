#!/usr/bin/env python3
"""Training speed of students by distillation loss, side by side.

    ./run.sh --recipe egs/mini_librispeech --corpus-dir <corpus> --exp mvq,l1 --stop-stage 7
    export OMP_NUM_THREADS=1 ONEDNN_PRIMITIVE_CACHE_CAPACITY=8192
    export LD_PRELOAD=/usr/lib/x86_64-linux-gnu/libjemalloc.so.2
    conf=egs/mini_librispeech/conf
    python benchmarks/students.py --data-dir data/mini_librispeech \\
        --values "--training.precision bfloat16 --distillation.codes.teacher hf:<teacher> \\
        --distillation.embeddings.teacher hf:<teacher>" \\
        $conf/baseline.yaml $conf/mvq.yaml "$conf/mvq.yaml --distillation.codes.prediction tied" \\
        $conf/l1.yaml $conf/l2_codes.yaml "$conf/l1.yaml --distillation.embeddings.source online"

Each experiment is built as `local/train.py` builds it, and all take whole steps (augmentation,
forward, backward, optimizer) on the same real batches in turn, so that what slows the
machine slows all of them alike. The first pass over the batches is not counted: kernels are
compiled in it. Loaders, which read stored targets too, are left out; they work beside a training in
processes of their own.

Batches are those of the last experiment's section `data`. The speed in x real time is
that of a median batch, the ratio is the median over batches of an experiment's time to that of the
first experiment.
"""

from __future__ import annotations

import argparse
import itertools
import shlex
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tqdm import tqdm

from mvqkd.data.folder import DataFolder
from mvqkd.data.loading.batch import Batch
from mvqkd.data.loading.tokenizer import Tokenizer
from mvqkd.evaluation.report import markdown_table
from mvqkd.geometry import encoder_frames
from mvqkd.recipe import build
from mvqkd.recipe.config.command_line import ExperimentParser
from mvqkd.recipe.config.rules import check_rules
from mvqkd.recipe.distillation import OpenedLoss
from mvqkd.recipe.inputs import ExperimentInputs
from mvqkd.recipe.opened_losses import open_losses
from mvqkd.recipe.options import add_data_options, split_patterns
from mvqkd.recipe.program import run_program
from mvqkd.runtime.distributed import World
from mvqkd.training.update import Updater

# Beyond every warm-up of a loss.
_FIRST_STEP = 1_000_000


def size(loss: OpenedLoss) -> float:
    """Bytes on disk for an hour of audio."""
    return float(loss.description["bytes_per_hour"])


@dataclass
class Contestant:
    """An experiment that is trained here."""

    name: str
    updater: Updater
    losses: dict[str, OpenedLoss]
    """Of distillation, by name."""

    @property
    def bytes_per_hour(self) -> float:
        """That the teacher's side takes on disk; files that losses share count once."""
        return sum({str(loss.description): size(loss) for loss in self.losses.values()}.values())

    def step(self, batch: Batch, number: int) -> float:
        """Seconds of one step, from a batch without targets."""
        lens = encoder_frames(batch.feature_lens).tolist()
        targets = {
            name: loss.source(batch.ids, lens) for name, loss in self.losses.items() if loss.source
        }
        batch = replace(batch, targets=targets)
        encoder = self.updater.objective.model.encoder
        frames = float(encoder.output_lens(batch.feature_lens).sum())
        begin = time.perf_counter()
        self.updater.update(
            [batch],
            step=_FIRST_STEP + number,
            frames=frames,
            labelled_frames=frames,
            learning_rate=1e-5,
        )
        if self.updater.world.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begin


def add_options(parser: argparse.ArgumentParser) -> None:
    """What `prepare` reads."""
    add = parser.add_argument
    add("experiments", nargs="+", help="a YAML file, with values of its own behind it in quotes")
    add("--values", default="", help="configuration values of all of them")
    add_data_options(parser)
    add("--exp-root", type=Path, default=Path("exp"), help="of teachers that are experiments")
    add("--vocab-size", type=int, help="tokens (default: those that were prepared last)")
    add("--batches", type=int, default=40)
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")


def prepare(options: argparse.Namespace, logs: str) -> tuple[list[Contestant], list[Batch]]:
    """The experiments, and labelled batches of the last one."""
    data = DataFolder(options.data_dir)
    world = World(device=torch.device(options.device))
    contestants = []
    for line in options.experiments:
        file, *values = shlex.split(line)
        arguments = ["--config", file, *shlex.split(options.values), *values]
        loaded, _ = ExperimentParser(None).parse(arguments)
        check_rules(loaded)
        inputs = ExperimentInputs(loaded, data, options.exp_root, split_patterns(options))
        lang_dir = inputs.lang(options.vocab_size)
        name = " ".join([Path(file).stem, *values])
        contestants.append(build_one(name, inputs, lang_dir, world, logs))
    loader = build.build_train_steps(
        inputs.config,
        inputs.cuts("train"),
        lang_dir,
        targets={},
        musan=None,
        rank=0,
        world_size=1,
    )
    steps = itertools.islice(loader, options.batches)
    return contestants, [batch for step in steps for batch in step if batch.labelled]


def take_turns(contestants: list[Contestant], batches: list[Batch]) -> list[list[float]]:
    """Seconds of each batch, of each contestant; a pass before is not counted."""
    times: list[list[float]] = [[] for _ in contestants]
    passes = [(warm, n, batch) for warm in (True, False) for n, batch in enumerate(batches)]
    for warm, number, batch in tqdm(passes, unit="batch", smoothing=0):
        for contestant, own in zip(contestants, times, strict=True):
            seconds = contestant.step(batch, number)
            if not warm:
                own.append(seconds)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as logs:
        contestants, batches = prepare(options, logs)
        times = take_turns(contestants, batches)
    rows = []
    for contestant, own in zip(contestants, times, strict=True):
        speeds = [batch.seconds / t for batch, t in zip(batches, own, strict=True)]
        ratios = [mine / reference for mine, reference in zip(own, times[0], strict=True)]
        parameters = sum(p.numel() for p in contestant.updater.objective.parameters())
        rows.append(
            [
                f"`{contestant.name}`",
                f"{parameters / 1e6:.2f}",
                f"{contestant.bytes_per_hour / 1e6:.2f}",
                f"{statistics.median(speeds):.0f}",
                f"{statistics.median(ratios):.2f}",
            ]
        )
    header = ["experiment", "M parameters in training", "teacher's MB an hour", "x real time"]
    print(markdown_table([*header, "time / first"], rows))


def build_one(
    name: str, inputs: ExperimentInputs, lang_dir: Path, world: World, log_dir: str
) -> Contestant:
    """As `local/train.py` does."""
    cuts = inputs.cuts("train")
    opened = open_losses(inputs, cuts, [], world.device, lang_dir)
    vocab_size = Tokenizer.load(lang_dir).vocab_size
    objective = build.build_objective(inputs.config, vocab_size, opened).to(world.device)
    objective.train()
    updater = build.build_updater(inputs.config, objective, world=world, log_dir=Path(log_dir))
    return Contestant(name, updater, opened)


if __name__ == "__main__":
    run_program(main)
