#!/usr/bin/env python3
"""Make the embedded synthetic corpus: English sentences spoken by espeak-ng, in LibriSpeech's
layout.

    make_mini_corpus.py --out data/mini/corpus

writes data/mini/corpus/LibriSpeech/{train-mini,dev-mini,test-mini}; with --text spelling, letters
and digits that are spelled, into {train,dev,test}-spelling. It can be killed and started
again; what is finished is kept. The same options give the same bytes.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import get_args

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mvqkd.data.synthetic.corpus import SPLITS, CorpusConfig, Text, make_corpus, split_name
from mvqkd.data.synthetic.summary import read_split, summary
from mvqkd.errors import UserError

HELP = {
    "seed": "everything random is a function of it",
    "speakers": "speakers of the {} split",
    "utterances": "utterances of each speaker of the {} split, about 2.7 s each",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, help="folder to make LibriSpeech/ in")
    parser.add_argument("--nj", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument(
        "--text",
        choices=get_args(Text),
        default="stories",
        help="what is read: sentences, or letters and digits (%(default)s)",
    )
    for field in fields(CorpusConfig):
        if field.name == "text":
            continue
        split, _, kind = field.name.rpartition("_")
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=int,
            default=field.default,
            help=f"{HELP[kind].format(split)} (default {field.default})",
        )
    options = parser.parse_args()
    config = CorpusConfig(**{f.name: getattr(options, f.name) for f in fields(CorpusConfig)})
    root = Path(options.out) / "LibriSpeech"
    start = time.monotonic()
    make_corpus(root, config, nj=max(options.nj, 1), progress=sys.stderr.isatty())
    names = [split_name(split, config.text) for split in SPLITS]
    print(summary({name: read_split(root / name) for name in names}, train=names[0]))
    print(f"{root}: ready after {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"make_mini_corpus.py: {error}")
