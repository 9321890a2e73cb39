#!/usr/bin/env python3
"""Gather the experiments of a recipe into a table, a picture and training curves.

python local/results.py --exp-dir exp/mini [--baseline baseline] [--by-speaker] \\
    [--delay-reference teacher --data-dir data/mini]
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
    add(
        "--delay-reference",
        default="",
        help="experiment with full context: emission delays of streaming students are measured "
        "against its alignments (default: none are measured)",
    )
    add("--data-dir", type=Path, help="prepared data, for the alignments")
    options = parser.parse_args()
    if options.delay_reference and options.data_dir is None:
        parser.error("--delay-reference needs --data-dir")
    write_results(
        options.exp_dir,
        baseline_name=options.baseline,
        by_speaker=options.by_speaker,
        delay_reference=options.delay_reference,
        data_dir=options.data_dir,
    )


if __name__ == "__main__":
    run_program(main)
