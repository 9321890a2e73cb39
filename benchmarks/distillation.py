#!/usr/bin/env python3
"""Time and memory of a training step by method of distillation, relative to the first experiment.

    ./run.sh --recipe egs/mini --exp teacher,baseline --stop-stage 8
    export OMP_NUM_THREADS=1
    conf=egs/mini/conf
    python benchmarks/distillation.py --data-dir data/mini --exp-root exp/mini --batches 20 \\
        $conf/streaming.yaml $conf/streaming_outputs.yaml \\
        "$conf/streaming_outputs.yaml --distillation.outputs.cells best_path" \\
        $conf/streaming_dual_mode.yaml $conf/streaming_lattice.yaml \\
        $conf/streaming_layers_direct.yaml $conf/streaming_layers.yaml

Times are those of `students.py`: whole steps on the same batches in turn, the median over batches
of an experiment's time to the first one's. Memory is measured in a process for each experiment,
which takes steps on its three longest batches: on a GPU the most that was allocated, on a CPU the
growth of the process's largest resident size from before the experiment was built.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile

import torch
from students import add_options, prepare, take_turns

from mvqkd.evaluation.report import markdown_table
from mvqkd.recipe.program import run_program

_MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    parser.add_argument("--only-memory", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as logs:
        if options.only_memory:
            print(peak_memory(options, logs))
            return
        memory = [alone(options, experiment) for experiment in options.experiments]
        contestants, batches = prepare(options, logs)
        times = take_turns(contestants, batches)
    rows = []
    for contestant, own, size in zip(contestants, times, memory, strict=True):
        ratios = [mine / reference for mine, reference in zip(own, times[0], strict=True)]
        rows.append(
            [
                f"`{contestant.name}`",
                f"{1000 * statistics.median(own):.0f}",
                f"{statistics.median(ratios):.2f}",
                f"{size / _MIB:.0f}",
                f"{size / memory[0]:.2f}",
            ]
        )
    print(markdown_table(["experiment", "ms a step", "/ first", "MiB", "/ first"], rows))


def alone(options: argparse.Namespace, experiment: str) -> float:
    """Bytes of an experiment, from a process of its own."""
    others = [value for value in sys.argv[1:] if value not in options.experiments]
    command = [sys.executable, __file__, *others, "--only-memory", experiment]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(found.stdout.split()[-1])


def peak_memory(options: argparse.Namespace, logs: str) -> float:
    """Bytes that the one experiment needs."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (contestant,), batches = prepare(options, logs)
    longest = sorted(batches, key=lambda batch: -batch.features.numel())[:3]
    for number, batch in enumerate(longest):
        contestant.step(batch, number)
    if torch.cuda.is_available() and options.device != "cpu":
        return float(torch.cuda.max_memory_allocated())
    return 1024.0 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


if __name__ == "__main__":
    run_program(main)
