#!/usr/bin/env python3
"""Corpus -> validated lhotse manifests.

    python local/prepare_manifests.py --corpus-dir /corpora --data-dir data/mini_librispeech \\
        --prefix librispeech --train-splits train-clean-5 --dev-splits dev-clean-2

Writes <data-dir>/manifests/<prefix>_{recordings,supervisions}_<split>.jsonl.gz, and beside them
<prefix>_<split>.report.json: every utterance that was left out or changed, and why. data.json says
of which corpus they are and what each is for. Run again, it keeps the splits whose files did not
change.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from mvqkd.data.prepare.manifests import prepare_manifests
from mvqkd.data.prepare.noises import prepare_musan
from mvqkd.data.prepare.normalization import NORMALIZATIONS
from mvqkd.recipe.options import add_split_options, at_least, split_patterns
from mvqkd.recipe.program import run_program


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data-dir", type=Path, required=True, help="prepared data")
    add_split_options(parser, default="none")
    add(
        "--corpus-dir",
        type=Path,
        required=True,
        help="a LibriSpeech tree, or a folder of lhotse manifests",
    )
    add("--prefix", default="librispeech", help="of the manifests' names")
    add("--min-seconds", type=float, default=0.2, help="leave out shorter utterances (%(default)s)")
    add("--max-seconds", type=float, default=40.0, help="leave out longer utterances (%(default)s)")
    add(
        "--text-normalization",
        choices=NORMALIZATIONS,
        default="identity",
        help="of all transcripts, those of references too (%(default)s)",
    )
    add("--audio-root", type=Path, help="where relative paths in manifests begin (default: here)")
    add("--musan-dir", type=Path, help="MUSAN: make the manifests of its noises, too")
    add("--nj", type=at_least(1), default=os.cpu_count() or 1, help="parallel jobs")
    add("--strict", action="store_true", help="stop when an utterance is invalid; write nothing")
    options = parser.parse_args()
    prepare_manifests(
        options.corpus_dir,
        split_patterns(options),
        options.data_dir,
        prefix=options.prefix,
        min_seconds=options.min_seconds,
        max_seconds=options.max_seconds,
        num_jobs=options.nj,
        strict=options.strict,
        text_normalization=options.text_normalization,
        audio_root=options.audio_root,
    )
    if options.musan_dir is not None:
        manifests = options.data_dir / "manifests"
        prepare_musan(options.musan_dir, manifests, num_jobs=options.nj, strict=options.strict)


if __name__ == "__main__":
    run_program(main)
