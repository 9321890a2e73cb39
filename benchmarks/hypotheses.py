#!/usr/bin/env python3
"""Time of a training step on K hypotheses of each utterance, relative to one.

    OMP_NUM_THREADS=1 python benchmarks/hypotheses.py egs/mini_librispeech/conf/baseline.yaml
    OMP_NUM_THREADS=1 python benchmarks/hypotheses.py egs/mini_librispeech/conf/baseline.yaml \\
        --loss.ctc_scale 0

The student and its losses are those of the experiment. Batches are made up: noise as long as
utterances are, and hypotheses that differ from the first in a tenth of the tokens. The Ks take
whole steps (forward and backward) in turn, so that what slows the machine slows all of them alike;
the ratio is the median over rounds of the time to that of the first K.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from mvqkd.data.loading.batch import Batch, collate
from mvqkd.data.loading.hypotheses import WeightedTokens
from mvqkd.evaluation.report import markdown_table
from mvqkd.recipe import build
from mvqkd.recipe.config.command_line import ExperimentParser
from mvqkd.recipe.config.load import load_config
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


def main() -> None:
    parser = ExperimentParser(__doc__)
    add = parser.options.add_argument
    add("experiment", help="YAML file")
    add("--hypotheses", type=int, nargs="+", default=[1, 2, 5, 10], help="Ks")
    add("--utterances", type=int, default=4)
    add("--tokens-per-second", type=float, default=7.0)
    add("--vocab-size", type=int, default=64)
    add("--rounds", type=int, default=7)
    options, overrides = parser.split()
    config = load_config(options.experiment, overrides).config
    objective = build.build_objective(config, options.vocab_size, {}).train()
    times: dict[int, list[float]] = {count: [] for count in options.hypotheses}
    for round_number in range(options.rounds + 1):  # the first is not counted: kernels are compiled
        for count in times:
            batch = make_batch(options, options.vocab_size, count, seed=round_number)
            begin = time.perf_counter()
            objective(batch, step=1_000_000).total().backward()
            took = time.perf_counter() - begin
            objective.zero_grad()
            if round_number:
                times[count].append(took)
    first = times[options.hypotheses[0]]
    rows = [
        [
            str(count),
            f"{statistics.median(found):.2f}",
            f"{statistics.median(a / b for a, b in zip(found, first, strict=True)):.2f}",
        ]
        for count, found in times.items()
    ]
    print(markdown_table(["K", "seconds", "ratio"], rows))


if __name__ == "__main__":
    run_program(main)
