#!/usr/bin/env python3
"""The teachers of an experiment: train those that are experiments of the same recipe, check others.

    python local/prepare_teacher.py --config egs/mini/conf/mvq.yaml --data-dir data/mini \\
        --exp-root exp/mini
    torchrun --nproc-per-node 4 local/prepare_teacher.py ...

A teacher of the recipe is trained with the values of its file, whatever the command line says:
those are meant for the student, and would change its targets.
"""

from __future__ import annotations

import sys

from mvqkd.recipe.config.command_line import ExperimentParser
from mvqkd.recipe.options import add_experiment_options, experiment_inputs
from mvqkd.recipe.program import EXIT_INTERRUPTED, run_program
from mvqkd.recipe.stages.teacher import prepare_teachers


def main() -> None:
    parser = ExperimentParser(__doc__)
    add_experiment_options(parser.options)
    parser.options.add_argument("--vocab-size", type=int, help="tokens of own teachers")
    loaded, options = parser.parse()
    inputs = experiment_inputs(loaded, options)
    if not prepare_teachers(inputs, options.config.parent, vocab_size=options.vocab_size):
        sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    run_program(main)
