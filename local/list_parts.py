#!/usr/bin/env python3
"""Print which parts of the corpus stage 1 prepared, as assignments of shell variables for run.sh.

    python local/list_parts.py --data-dir data/x [--train-parts LIST ...] [--corpus-dir DIR]

`train_parts=...`, `dev_parts`, `test_parts` and `unlabelled_parts`: those of stage 1, or those of
them that an option names. With --corpus-dir, data of another corpus is refused.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from mvqkd.data.parts import ROLES, check_corpus, recorded_parts
from mvqkd.experiment.program import flatten, list_option, run_program


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="prepared data")
    parser.add_argument("--corpus-dir", type=Path, help="that the data must be of")
    for role in ROLES:
        parser.add_argument(
            f"--{role}-parts",
            type=list_option,
            nargs="+",
            default=[],
            help="names or patterns (default: those of stage 1)",
        )
    options = parser.parse_args()
    if options.corpus_dir is not None:
        check_corpus(options.data_dir, options.corpus_dir)
    patterns = {role: flatten(getattr(options, f"{role}_parts")) for role in ROLES}
    for role, names in recorded_parts(options.data_dir, patterns).items():
        print(f"{role}_parts={shlex.quote(' '.join(names))}")


if __name__ == "__main__":
    run_program(main)
