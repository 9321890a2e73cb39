#!/usr/bin/env python3
"""Training transcripts -> BPE tokens; cuts checked against them.

    python local/prepare_lang.py --data-dir data/mini_librispeech --vocab-size 500

Writes <data-dir>/lang_bpe_<vocab-size>/{bpe.model,tokens.txt}, for each split excluded_<split>.txt
(the cuts with too few encoder frames for their tokens, which losses leave out), and an index of
its cuts.
Run again, it keeps what is done.
"""

from __future__ import annotations

import argparse

from mvqkd.data.folder import DataFolder
from mvqkd.recipe.options import add_data_options, split_patterns
from mvqkd.recipe.program import run_program
from mvqkd.recipe.stages.tokens import prepare_tokens


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_data_options(parser)
    add = parser.add_argument
    add("--vocab-size", type=int, default=500, help="tokens, special ones included (%(default)s)")
    add("--strict", action="store_true", help="stop when a cut has more tokens than frames")
    options = parser.parse_args()
    prepare_tokens(
        DataFolder(options.data_dir),
        split_patterns(options),
        options.vocab_size,
        strict=options.strict,
    )


if __name__ == "__main__":
    run_program(main)
