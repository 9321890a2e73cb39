#!/usr/bin/env python3
"""Time of a training step on K hypotheses of each utterance, relative to one.

    OMP_NUM_THREADS=1 python benchmarks/hypotheses.py egs/mini_librispeech/conf/baseline.yaml
    OMP_NUM_THREADS=1 python benchmarks/hypotheses.py egs/mini_librispeech/conf/baseline.yaml \\
        egs/mini_librispeech/conf/attention.yaml --hypotheses 1 5

Students and their losses are those of the experiments. Batches are made up: noise as long as
utterances are, and hypotheses that differ from the first in a tenth of the tokens. The Ks take
whole steps (forward and backward) in turn, so that what slows the machine slows all of them alike.
Times are of the processor, all threads together, and so little changed by other processes; the
ratio is that of the medians over rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np

from mvqkd.data.loading.batch import Batch, collate
from mvqkd.data.loading.hypotheses import WeightedTokens
from mvqkd.evaluation.report import markdown_table
from mvqkd.recipe import build
from mvqkd.recipe.config.command_line import ExperimentParser
from mvqkd.recipe.config.load import load_config
from mvqkd.recipe.config.schema import ExperimentConfig
from mvqkd.recipe.program import run_program


def make_batch(options: argparse.Namespace, vocab_size: int, count: int, seed: int) -> Batch:
    """A batch with `count` hypotheses of each utterance."""
    random = np.random.default_rng(seed)
    frames = random.integers(600, 1600, options.utterances)
    texts, features = [], []
    for length in frames.tolist():
        first = random.integers(3, vocab_size, round(length / 100 * options.tokens_per_second))
        items = []
        for _ in range(count):
            changed = random.random(len(first)) < 0.1
            tokens = np.where(changed, random.integers(3, vocab_size, len(first)), first)
            items.append(WeightedTokens(tokens.astype(np.int32), 1 / count))
        texts.append(items)
        features.append(random.standard_normal((length, 80), dtype=np.float32))
    ids = [str(number) for number in range(len(frames))]
    return collate(ids, features, [""] * len(ids), None, hypotheses=texts, pad_multiple=32)


def step_times(config: ExperimentConfig, options: argparse.Namespace) -> dict[int, list[float]]:
    """Seconds of the processor for a step in each round, by K."""
    objective = build.build_objective(config, options.vocab_size, {}).train()
    times: dict[int, list[float]] = {count: [] for count in options.hypotheses}
    for round_number in range(options.rounds + 1):  # the first is not counted: kernels are compiled
        for count in times:
            batch = make_batch(options, options.vocab_size, count, seed=round_number)
            begin = time.process_time()
            objective(batch, step=1_000_000).total().backward()
            took = time.process_time() - begin
            objective.zero_grad()
            if round_number:
                times[count].append(took)
    return times


def main() -> None:
    parser = ExperimentParser(__doc__)
    add = parser.options.add_argument
    add("experiments", nargs="+", help="YAML files")
    add("--hypotheses", type=int, nargs="+", default=[1, 2, 5, 10], help="Ks")
    add("--utterances", type=int, default=4)
    add("--tokens-per-second", type=float, default=7.0)
    add("--vocab-size", type=int, default=64)
    add("--rounds", type=int, default=7)
    options, overrides = parser.split()
    rows = []
    for experiment in options.experiments:
        times = step_times(load_config(experiment, overrides).config, options)
        medians = {count: statistics.median(found) for count, found in times.items()}
        first = medians[options.hypotheses[0]]
        rows += [
            [f"`{Path(experiment).stem}`", str(count), f"{median:.2f}", f"{median / first:.2f}"]
            for count, median in medians.items()
        ]
    print(markdown_table(["experiment", "K", "seconds", "ratio"], rows))


if __name__ == "__main__":
    run_program(main)
