#!/usr/bin/env python3
"""Print which of some experiments have teachers, a line `<experiment> <teacher>` for each.

    python local/list_teachers.py --config egs/mini/conf/baseline.yaml egs/mini/conf/mvq.yaml

The teacher is the name of an experiment of the same recipe, or `-` for another network. Checks the
values of each experiment, before hours of work.
"""

from __future__ import annotations

from pathlib import Path

from mvqkd.recipe.config.command_line import ExperimentParser
from mvqkd.recipe.config.load import load_config
from mvqkd.recipe.config.rules import check_rules
from mvqkd.recipe.program import run_program
from mvqkd.recipe.teacher_files import own_experiment


def main() -> None:
    parser = ExperimentParser(__doc__, many=True)
    options, overrides = parser.split()
    for path in options.config:
        loaded = load_config(Path(path), overrides)
        check_rules(loaded)
        for loss in loaded.config.distillation.sections.values():
            print(Path(path).stem, own_experiment(loss) or "-")


if __name__ == "__main__":
    run_program(main)
