#!/usr/bin/env python3
"""Train an experiment on one or many processes.

    python local/train.py --config egs/mini/conf/baseline.yaml --data-dir data/mini \\
        --exp-dir exp/mini/baseline
    torchrun --nproc-per-node 4 local/train.py ...

Run again, it goes on from the newest checkpoint; a finished training costs nothing. Exits with
status 75 when a signal stopped it (torchrun makes 1 of that): the same command goes on.
"""

from __future__ import annotations

import sys
from pathlib import Path

from mvqkd.data.folder import DataFolder
from mvqkd.recipe.config.command_line import ExperimentParser
from mvqkd.recipe.inputs import ExperimentInputs
from mvqkd.recipe.options import add_data_options, split_patterns
from mvqkd.recipe.program import EXIT_INTERRUPTED, run_program
from mvqkd.recipe.stages.train import train_experiment


def main() -> None:
    parser = ExperimentParser(__doc__)
    add_data_options(parser.options)
    add = parser.options.add_argument
    add("--exp-dir", type=Path, required=True, help="folder of the experiment")
    add("--vocab-size", type=int, help="tokens (default: those that were prepared last)")
    add("--device", help="cpu or cuda (default: cuda where there is a GPU)")
    loaded, options = parser.parse()
    inputs = ExperimentInputs(
        loaded, DataFolder(options.data_dir), options.exp_dir.parent, split_patterns(options)
    )
    if not train_experiment(
        inputs, options.exp_dir, vocab_size=options.vocab_size, device=options.device
    ):
        sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    run_program(main)
