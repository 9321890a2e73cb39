#!/usr/bin/env python3
"""What a training spends beside its encoder and losses.

    export OMP_NUM_THREADS=1
    python benchmarks/training.py --data-dir data/mini_librispeech \\
        --config egs/mini_librispeech/conf/baseline.yaml --training.precision bfloat16

Two loops take the same steps in turn: the whole of a training (loader, SpecAugment, losses,
backward pass, clipping, optimizer, average of the weights), and forward and backward passes of
encoder and losses alone, over batches that are in memory. Medians of the turns, on the wall clock
and in time of this process's processor; the wall clock includes waiting for the loader's workers.
Prints a Markdown table.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from mvqkd.checkpoints.averaging import TrainingAverage
from mvqkd.data.folder import DataFolder
from mvqkd.data.loading.batch import Batch
from mvqkd.data.loading.tokenizer import Tokenizer
from mvqkd.evaluation.report import markdown_table
from mvqkd.recipe import build
from mvqkd.recipe.config.command_line import ExperimentParser
from mvqkd.recipe.config.rules import check_rules
from mvqkd.recipe.inputs import ExperimentInputs
from mvqkd.recipe.options import add_data_options, split_patterns
from mvqkd.recipe.program import run_program
from mvqkd.runtime.distributed import World
from mvqkd.training.update import Updater

_FIRST_STEP = 1_000_000  # beyond every warm-up of a loss


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the wall clock, and of this process's processor."""
    begin = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - begin[0], time.process_time() - begin[1]


def frames_of(updater: Updater, batches: Sequence[Batch]) -> float:
    """Frames of the encoder."""
    lens = updater.objective.model.encoder.output_lens
    return float(sum(int(lens(batch.feature_lens).sum()) for batch in batches))


def take(updater: Updater, batches: Sequence[Batch], number: int) -> None:
    """The whole of a step."""
    frames = frames_of(updater, batches)
    updater.update(
        batches,
        step=_FIRST_STEP + number,
        frames=frames,
        labelled_frames=frames,
        learning_rate=1e-5,
    )


def compute(updater: Updater, batches: Sequence[Batch]) -> None:
    """Forward and backward pass of encoder and losses."""
    updater.optimizer.zero_grad(set_to_none=True)
    for batch in batches:
        with updater.autocast():
            losses = updater.objective(batch, step=_FIRST_STEP)
        frames = frames_of(updater, batches)
        losses.total(frames, frames).backward()


def main() -> None:
    parser = ExperimentParser(__doc__)
    add_data_options(parser.options)
    add = parser.options.add_argument
    add("--exp-root", type=Path, default=Path("exp"), help="of teachers that are experiments")
    add("--vocab-size", type=int, help="tokens (default: those that were prepared last)")
    add("--steps", type=int, default=20, help="of each turn")
    add("--turns", type=int, default=5, help="of which the median, after one to warm up")
    loaded, options = parser.parse()
    check_rules(loaded)
    inputs = ExperimentInputs(
        loaded, DataFolder(options.data_dir), options.exp_root, split_patterns(options)
    )
    lang_dir = inputs.lang(options.vocab_size)
    objective = build.build_objective(inputs.config, Tokenizer.load(lang_dir).vocab_size, {})
    objective.train()
    average = TrainingAverage(objective.model, objective.head_losses)
    loader = build.build_train_steps(
        inputs.config,
        inputs.cuts("train"),
        lang_dir,
        targets={},
        musan=None,
        rank=0,
        world_size=1,
    )
    turns: list[list[tuple[float, float]]] = []
    with tempfile.TemporaryDirectory() as logs:
        updater = build.build_updater(
            inputs.config, objective, world=World(device=torch.device("cpu")), log_dir=Path(logs)
        )
        for turn in tqdm(range(options.turns + 1), unit="turn"):
            loader.set_epoch(1, 0)  # the same batches: their kernels are compiled in the first turn
            steps = iter(loader)
            next(steps)  # workers have started
            kept: list[list[Batch]] = []

            def whole(steps: Iterator[list[Batch]] = steps, kept: list[list[Batch]] = kept) -> None:
                for number, batches in enumerate(itertools.islice(steps, options.steps)):
                    take(updater, batches, number)
                    if number % inputs.config.training.average_period == 0:
                        average.update()
                    kept.append(batches)

            def alone(kept: list[list[Batch]] = kept) -> None:
                for batches in kept:
                    compute(updater, batches)

            times = [timed(whole), timed(alone)]
            if turn:
                turns.append(times)
    rows = []
    for clock, name in enumerate(("wall clock", "processor")):
        training, computing = (
            statistics.median(turn[side][clock] / options.steps for turn in turns)
            for side in range(2)
        )
        ratio = statistics.median(turn[1][clock] / turn[0][clock] for turn in turns)
        rows.append([name, f"{1000 * training:.0f}", f"{1000 * computing:.0f}", f"{ratio:.2f}"])
    print(markdown_table(["clock", "step, ms", "encoder and losses, ms", "ratio"], rows))


if __name__ == "__main__":
    run_program(main)
