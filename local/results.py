#!/usr/bin/env python3
"""Gather the experiments of a recipe into a table, a picture and training curves.

python local/results.py --exp-dir exp/mini [--baseline baseline] [--by-speaker]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mvqkd.recipe.program import run_program
from mvqkd.recipe.stages.results import write_results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--exp-dir", type=Path, required=True, help="folder of the recipe's experiments")
    add("--baseline", default="baseline", help="experiment that the others are compared with")
    add(
        "--by-speaker",
        action="store_true",
        help="resample speakers instead of utterances (LibriSpeech ids): wider, safer intervals",
    )
    options = parser.parse_args()
    write_results(options.exp_dir, baseline_name=options.baseline, by_speaker=options.by_speaker)


if __name__ == "__main__":
    run_program(main)
