#!/usr/bin/env python3
"""Training speed of students by teaching method, side by side.

    ./run.sh --recipe egs/mini_librispeech --corpus-dir <corpus> --exp mvq,l1 --stop-stage 7
    export OMP_NUM_THREADS=1 ONEDNN_PRIMITIVE_CACHE_CAPACITY=8192
    export LD_PRELOAD=/usr/lib/x86_64-linux-gnu/libjemalloc.so.2
    conf=egs/mini_librispeech/conf
    python benchmarks/students.py --data-dir data/mini_librispeech \\
        --prefix librispeech --vocab-size 64 --parts train-mini \\
        --values "--training.precision bfloat16 --distillation.teacher hf:<teacher>" \\
        $conf/baseline.yaml $conf/mvq.yaml "$conf/mvq.yaml --distillation.prediction tied" \\
        $conf/l1.yaml $conf/l2_codes.yaml "$conf/l1.yaml --distillation.source teacher"

Each experiment is built as `local/train.py` builds it, and all take whole steps (augmentation,
targets, forward, backward, optimizer) on the same real batches in turn, so that what slows the
machine slows all of them alike. The first pass over the batches is not counted: kernels are
compiled in it. Loaders are left out; they work beside a training in processes of their own.

Batches are those of the last experiment's section `data`. Hours of audio per hour of the clock are
those of a median batch, the ratio is the median over batches of an experiment's time to that of the
first experiment.
"""

from __future__ import annotations

import argparse
import itertools
import shlex
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from mvqkd.data import Batch, Tokenizer
from mvqkd.evaluation.report import markdown_table
from mvqkd.experiment import build
from mvqkd.experiment.build_distillation import Distillation
from mvqkd.experiment.config import ExperimentConfig
from mvqkd.experiment.parser import ExperimentParser
from mvqkd.experiment.program import run_program
from mvqkd.experiment.teaching import teaching_files
from mvqkd.training.distributed import World
from mvqkd.training.update import Updater

# Beyond every warm-up of a loss.
_FIRST_STEP = 1_000_000


@dataclass
class Contestant:
    """An experiment that is trained here."""

    name: str
    updater: Updater
    bytes_per_hour: float
    """That the teacher's side takes on disk."""

    def step(self, batch: Batch, number: int) -> float:
        """Seconds of one step."""
        encoder = self.updater.objective.student.encoder
        frames = float(encoder.output_lens(batch.feature_lens).sum())
        begin = time.perf_counter()
        self.updater.update([batch], step=_FIRST_STEP + number, frames=frames, learning_rate=1e-5)
        if self.updater.world.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("experiments", nargs="+", help="a YAML file, with values of its own behind it in quotes")
    add("--values", default="", help="configuration values of all of them")
    add("--data-dir", type=Path, required=True, help="prepared data")
    add("--exp-root", type=Path, default=Path("exp"), help="of teachers that are experiments")
    add("--prefix", default="librispeech", help="of the names of the data's files")
    add("--vocab-size", type=int, default=500)
    add("--parts", nargs="+", required=True, help="training parts")
    add("--batches", type=int, default=40)
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()

    cuts = [
        options.data_dir / "fbank" / f"{options.prefix}_cuts_{part}.jsonl.gz"
        for part in options.parts
    ]
    lang_dir = options.data_dir / f"lang_bpe_{options.vocab_size}"
    world = World(device=torch.device(options.device))
    with tempfile.TemporaryDirectory() as logs:
        contestants = []
        for line in options.experiments:
            file, *values = shlex.split(line)
            arguments = ["--config", file, *shlex.split(options.values), *values]
            experiment, _ = ExperimentParser(None).parse(arguments)
            name = " ".join([Path(file).stem, *values])
            contestants.append(build_one(name, experiment, cuts, lang_dir, options, world, logs))
        loader = build.build_train_batches(
            experiment, cuts, lang_dir, musan=None, rank=0, world_size=1
        )
        batches = list(itertools.islice(loader, options.batches))
        times: list[list[float]] = [[] for _ in contestants]
        passes = [(warm, n, batch) for warm in (True, False) for n, batch in enumerate(batches)]
        for warm, number, batch in tqdm(passes, unit="batch", smoothing=0):
            for contestant, own in zip(contestants, times, strict=True):
                seconds = contestant.step(batch, number)
                if not warm:
                    own.append(seconds)
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
    header = ["experiment", "M parameters in training", "teacher's MB an hour", "hours per hour"]
    print(markdown_table([*header, "time / first"], rows))


def build_one(
    name: str,
    experiment: ExperimentConfig,
    cuts: list[Path],
    lang_dir: Path,
    options: argparse.Namespace,
    world: World,
    log_dir: str,
) -> Contestant:
    """As `local/train.py` does."""
    distillation = None
    if experiment.distillation.method != "none":
        distillation = Distillation(
            experiment.distillation,
            experiment.model,
            teaching_files(experiment.distillation, options.data_dir, options.exp_root),
            train_cuts=cuts,
            dev_cuts=[],
            device=world.device,
        )
    objective = build.build_objective(
        experiment,
        Tokenizer.load(lang_dir).vocab_size,
        distillation.build if distillation else None,
    ).to(world.device)
    objective.train()
    updater = build.build_updater(experiment, objective, world=world, log_dir=Path(log_dir))
    return Contestant(
        name, updater, distillation.description["bytes_per_hour"] if distillation else 0.0
    )


if __name__ == "__main__":
    run_program(main)
