#!/usr/bin/env python3
"""Print what a folder of prepared data holds; refuse it when it is of another corpus.

    python local/describe_data.py --data-dir data/x [--corpus-dir DIR]

The corpus of the data is checked only with --corpus-dir.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mvqkd.data.folder import DataFolder
from mvqkd.recipe.options import add_data_options, split_patterns
from mvqkd.recipe.program import run_program


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_data_options(parser)
    parser.add_argument("--corpus-dir", type=Path, help="that the data must be of")
    options = parser.parse_args()
    data = DataFolder(options.data_dir)
    if options.corpus_dir is not None:
        data.check_corpus(options.corpus_dir)
    splits = data.splits(split_patterns(options))
    named = [f"{role} {', '.join(names)}" for role, names in splits.items() if names]
    print(f"{data.root}: {'; '.join(named)}")
    if not splits["test"]:
        print("the corpus has no test split: only the dev splits are decoded")


if __name__ == "__main__":
    run_program(main)
