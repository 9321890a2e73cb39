#!/usr/bin/env python3
"""Manifests -> cuts with 80-bin log-mel features.

    python local/compute_fbank.py --data-dir data/mini_librispeech --prefix librispeech \\
        --train-parts "train-*" --parts "dev-*,test-*" --speed-perturb

Writes <data-dir>/fbank/<prefix>_cuts_<part>.jsonl.gz with its features beside it in feats_*/, and
<prefix>_cuts_<part>.report.json. Killed at any moment, the same command goes on; run again, it
keeps what is done.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from mvqkd.data.extraction import manifest_cuts, noise_cuts, store_cuts, store_features
from mvqkd.data.parts import manifest_parts
from mvqkd.data.report import read_report
from mvqkd.experiment.program import at_least, flatten, list_option, run_program
from mvqkd.locks import own_folder

SPEEDS = (1.0, 0.9, 1.1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="prepared data")
    parser.add_argument("--prefix", default="librispeech", help="of the manifests' names")
    parser.add_argument(
        "--train-parts", type=list_option, nargs="+", default=[], help="names or patterns of parts"
    )
    parser.add_argument(
        "--parts", type=list_option, nargs="+", default=[], help="parts for development and test"
    )
    parser.add_argument(
        "--speed-perturb",
        action="store_true",
        help="training parts at speeds 0.9 and 1.1, too: <id>_sp0.9, <id>_sp1.1",
    )
    parser.add_argument("--musan", action="store_true", help="features of MUSAN's noises, too")
    parser.add_argument(
        "--on-the-fly",
        action="store_true",
        help="store no features: loaders extract them from the audio (less disk, more CPU)",
    )
    parser.add_argument(
        "--nj", type=at_least(1), default=os.cpu_count() or 1, help="parallel processes"
    )
    parser.add_argument("--strict", action="store_true", help="stop when audio is unreadable")
    options = parser.parse_args()
    fbank = options.data_dir / "fbank"
    # A run that waited finds done what the other one did.
    with own_folder(fbank, work="extraction of features"):
        compute(options, fbank)


def compute(options: argparse.Namespace, fbank: Path) -> None:
    """All parts, one after the other."""
    manifests = options.data_dir / "manifests"
    train_parts = manifest_parts(flatten(options.train_parts), manifests, options.prefix)
    eval_parts = manifest_parts(flatten(options.parts), manifests, options.prefix)
    for part in dict.fromkeys(train_parts + eval_parts):
        cuts = manifest_cuts(manifests, options.prefix, part)
        output = fbank / f"{options.prefix}_cuts_{part}.jsonl.gz"
        speeds = SPEEDS if options.speed_perturb and part in train_parts else SPEEDS[:1]
        if options.on_the_fly:
            store_cuts(cuts, output, speeds=speeds)
        else:
            report = read_report(manifests / f"{options.prefix}_{part}.report.json")
            store_features(
                cuts,
                output,
                speeds=speeds,
                num_jobs=options.nj,
                strict=options.strict,
                audio=report.get("fingerprint", ""),
            )
    if options.musan:
        # Always stored: noise is read many times.
        output = fbank / "musan_cuts.jsonl.gz"
        store_features(noise_cuts(manifests), output, num_jobs=options.nj, strict=options.strict)


if __name__ == "__main__":
    run_program(main)
