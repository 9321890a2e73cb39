#!/usr/bin/env python3
"""Emission delays of decoded experiments, beside their word error rates.

python local/measure_delay.py --reference exp/mini/teacher --data-dir data/mini exp/mini/streaming*

Delays are of what was recognized correctly: frames of tokens and of the last tokens of words,
against two alignments of the transcript by the reference, an experiment with full context.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mvqkd.recipe.options import flatten, list_option
from mvqkd.recipe.program import run_program


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("exp_dirs", nargs="+", type=Path, help="folders of decoded experiments")
    add("--reference", type=Path, required=True, help="folder of an experiment with full context")
    add("--data-dir", type=Path, required=True, help="prepared data")
    add("--sets", type=list_option, nargs="+", default=[], help="test sets (default: all decoded)")
    add("--output", type=Path, help="file for the tables, which are printed too")
    add("--device", help="cpu or cuda (default: cuda where there is a GPU)")
    options = parser.parse_args()

    # Imported late: wrong options are reported without waiting for torch.
    from mvqkd.recipe.stages.delays import measure_delays

    page = measure_delays(
        options.exp_dirs,
        options.reference,
        options.data_dir,
        sets=flatten(options.sets),
        output=options.output,
        device=options.device,
    )
    print(page, end="")


if __name__ == "__main__":
    run_program(main)
