#!/usr/bin/env python3
"""Training transcripts -> BPE tokens; cuts checked against them.

    python local/prepare_lang.py --data-dir data/mini_librispeech --prefix librispeech \\
        --train-parts "train-*" --parts "dev-*,test-*" --vocab-size 500

Writes <data-dir>/lang_bpe_<vocab-size>/{bpe.model,tokens.txt}, for each part excluded_<part>.txt
(the cuts with more tokens than encoder frames, which losses leave out), and an index of its cuts.
Run again, it keeps what is done.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mvqkd.data.lang import check_tokens, prepare_tokenizer
from mvqkd.data.parts import manifest_parts
from mvqkd.errors import UserError
from mvqkd.experiment.program import flatten, list_option, run_program


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="prepared data")
    parser.add_argument("--prefix", default="librispeech", help="of the manifests' names")
    parser.add_argument(
        "--train-parts", type=list_option, nargs="+", required=True, help="names or patterns"
    )
    parser.add_argument(
        "--parts", type=list_option, nargs="+", default=[], help="parts for development and test"
    )
    parser.add_argument(
        "--vocab-size", type=int, default=500, help="tokens, special ones included (%(default)s)"
    )
    parser.add_argument(
        "--strict", action="store_true", help="stop when a cut has more tokens than frames"
    )
    options = parser.parse_args()
    manifests, fbank = options.data_dir / "manifests", options.data_dir / "fbank"
    lang = options.data_dir / f"lang_bpe_{options.vocab_size}"
    train_parts = manifest_parts(flatten(options.train_parts), manifests, options.prefix)
    eval_parts = manifest_parts(flatten(options.parts), manifests, options.prefix)
    parts = dict.fromkeys(train_parts + eval_parts)
    cuts = [fbank / f"{options.prefix}_cuts_{part}.jsonl.gz" for part in parts]
    for path in cuts:
        if not path.is_file():
            raise UserError(f"{path} is missing", remedy="./run.sh --stage 2 --stop-stage 2")

    prepare_tokenizer(
        [manifests / f"{options.prefix}_supervisions_{part}.jsonl.gz" for part in train_parts],
        options.vocab_size,
        lang,
    )
    for path in cuts:
        check_tokens(path, lang, strict=options.strict)


if __name__ == "__main__":
    run_program(main)
