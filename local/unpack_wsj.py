#!/usr/bin/env python3
"""Wall Street Journal as the LDC distributes it -> FLAC in LibriSpeech's layout.

    python local/unpack_wsj.py --corpus-dir /corpora/wsj --out data/wsj/corpus \\
        --splits train_si284 test_dev93 test_eval92

The corpus is bought from the LDC: LDC93S6B and LDC94S13B (or A, which have another microphone too).
--corpus-dir holds their discs, or their wsj0 and wsj1. Audio that is compressed with shorten is
decoded by sph2pipe (`lhotse install-sph2pipe`). Run again, it keeps what is unpacked.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from mvqkd.data.prepare.wsj import SPLITS, unpack
from mvqkd.data.splits import expand_splits
from mvqkd.errors import UserError
from mvqkd.recipe.options import at_least, flatten, list_option
from mvqkd.recipe.program import run_program


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--corpus-dir", type=Path, help="with the discs of LDC93S6B and LDC94S13B")
    add("--out", type=Path, required=True, help="folder of the unpacked splits")
    add(
        "--splits",
        type=list_option,
        nargs="+",
        help=f"names or patterns (default: all: {', '.join(SPLITS)})",
    )
    add("--nj", type=at_least(1), default=os.cpu_count() or 1, help="parallel jobs")
    options = parser.parse_args()
    if options.corpus_dir is None:
        raise UserError(
            "Wall Street Journal cannot be downloaded",
            remedy="buy LDC93S6B and LDC94S13B from the LDC, and name the folder of their discs: "
            "--corpus-dir",
        )
    patterns = flatten(options.splits or [["*"]])
    splits = expand_splits(patterns, SPLITS, "Wall Street Journal", remedy="see --help")
    unpack(options.corpus_dir, splits, options.out, num_jobs=options.nj)


if __name__ == "__main__":
    run_program(main)
