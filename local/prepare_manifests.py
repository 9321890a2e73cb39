#!/usr/bin/env python3
"""Corpus -> validated lhotse manifests.

    python local/prepare_manifests.py --corpus-dir /corpora --data-dir data/mini_librispeech \\
        --prefix librispeech --train-parts train-clean-5 --dev-parts dev-clean-2

Writes <data-dir>/manifests/<prefix>_{recordings,supervisions}_<part>.jsonl.gz, and beside them
<prefix>_<part>.report.json: every utterance that was left out or changed, and why. parts.json says
of which corpus they are and what each is for. Run again, it keeps the parts whose files did not
change.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from mvqkd.data.manifests import prepare_manifests, prepare_musan
from mvqkd.data.parts import ROLES
from mvqkd.experiment.program import at_least, flatten, list_option, run_program


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--corpus-dir",
        type=Path,
        required=True,
        help="a LibriSpeech tree, or a folder of lhotse manifests",
    )
    for role in ROLES:
        parser.add_argument(
            f"--{role}-parts",
            type=list_option,
            nargs="+",
            default=[],
            help="names or patterns of parts"
            + (", which need no transcripts" if role == "unlabelled" else ""),
        )
    parser.add_argument("--prefix", default="librispeech", help="of the manifests' names")
    parser.add_argument("--data-dir", type=Path, required=True, help="prepared data")
    parser.add_argument(
        "--min-seconds", type=float, default=0.2, help="leave out shorter utterances (%(default)s)"
    )
    parser.add_argument(
        "--max-seconds", type=float, default=40.0, help="leave out longer utterances (%(default)s)"
    )
    parser.add_argument(
        "--musan-dir", type=Path, help="MUSAN: make the manifests of its noises, too"
    )
    parser.add_argument("--nj", type=at_least(1), default=os.cpu_count() or 1, help="parallel jobs")
    parser.add_argument(
        "--strict", action="store_true", help="stop when an utterance is invalid; write nothing"
    )
    options = parser.parse_args()
    prepare_manifests(
        options.corpus_dir,
        {role: flatten(getattr(options, f"{role}_parts")) for role in ROLES},
        options.data_dir,
        prefix=options.prefix,
        min_seconds=options.min_seconds,
        max_seconds=options.max_seconds,
        num_jobs=options.nj,
        strict=options.strict,
    )
    if options.musan_dir is not None:
        manifests = options.data_dir / "manifests"
        prepare_musan(options.musan_dir, manifests, num_jobs=options.nj, strict=options.strict)


if __name__ == "__main__":
    run_program(main)
