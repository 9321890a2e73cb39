#!/usr/bin/env python3
"""Manifests -> cuts with 80-bin log-mel features.

    python local/compute_fbank.py --data-dir data/mini_librispeech --speed-perturb

Writes <data-dir>/fbank/<prefix>_cuts_<split>.jsonl.gz with its features beside it in feats_*/, and
<prefix>_cuts_<split>.report.json. Killed at any moment, the same command goes on; run again, it
keeps what is done.
"""

from __future__ import annotations

import argparse
import os
from typing import get_args

from mvqkd.data.folder import DataFolder
from mvqkd.geometry import FeatureKind
from mvqkd.recipe.options import add_data_options, at_least, split_patterns
from mvqkd.recipe.program import run_program
from mvqkd.recipe.stages.features import compute_features


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_data_options(parser)
    add = parser.add_argument
    add("--features", choices=get_args(FeatureKind), default="fbank", help="kind (%(default)s)")
    add(
        "--speed-perturb",
        action="store_true",
        help="training splits at speeds 0.9 and 1.1, too: <id>_sp0.9, <id>_sp1.1",
    )
    add("--musan", action="store_true", help="features of MUSAN's noises, too")
    add(
        "--on-the-fly",
        action="store_true",
        help="store no features: loaders extract them from the audio (less disk, more CPU)",
    )
    add("--nj", type=at_least(1), default=os.cpu_count() or 1, help="parallel processes")
    add("--strict", action="store_true", help="stop when audio is unreadable")
    options = parser.parse_args()
    compute_features(
        DataFolder(options.data_dir),
        split_patterns(options),
        kind=options.features,
        speed_perturb=options.speed_perturb,
        musan=options.musan,
        on_the_fly=options.on_the_fly,
        num_jobs=options.nj,
        strict=options.strict,
    )


if __name__ == "__main__":
    run_program(main)
