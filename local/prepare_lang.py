#!/usr/bin/env python3
"""Training transcripts -> BPE tokens; cuts checked against them.

    python local/prepare_lang.py --data-dir data/mini_librispeech --vocab-size 500
    python local/prepare_lang.py --data-dir data/mini --vocab-size 40 \\
        --config egs/mini/conf/teacher.yaml egs/mini/conf/baseline.yaml

The tokens of experiments with data.labelled_hours are made of the transcripts that these know, in
lang_bpe_<vocab-size>_<hours>h. Without --config, tokens are made of all transcripts.

    python local/prepare_lang.py --data-dir data/wsj --units char
    python local/prepare_lang.py --data-dir data/mine --tokens-from exp/librispeech/baseline

With --config, the tokens are also checked against the data that experiments replay or are validated
on too (data.replay, data.extra_dev).

Writes <data-dir>/lang_bpe_<vocab-size>/{bpe.model,tokens.txt}, for each split excluded_<split>.txt
(the cuts with too few encoder frames for their tokens, which losses leave out), and an index of
its cuts.
Run again, it keeps what is done.
"""

from __future__ import annotations

from mvqkd.data.folder import DataFolder
from mvqkd.recipe.config.command_line import ExperimentParser
from mvqkd.recipe.inputs import labelled_hours
from mvqkd.recipe.options import add_data_options, split_patterns
from mvqkd.recipe.other_data import other_cuts
from mvqkd.recipe.program import run_program
from mvqkd.recipe.stages.tokens import find_model, prepare_tokens

UNITS = "char: the characters of the transcripts, whatever --vocab-size is (%(default)s)"

TOKENS_FROM = (
    "take the tokens of this model, whatever --vocab-size is: a bpe.model, the folder of an "
    "experiment or a model, or hf:OWNER/NAME"
)


def main() -> None:
    parser = ExperimentParser(__doc__, many=True)
    add_data_options(parser.options)
    add = parser.options.add_argument
    add("--vocab-size", type=int, default=500, help="tokens, special ones included (%(default)s)")
    add("--units", default="bpe", choices=["bpe", "char"], help=UNITS)
    add("--tokens-from", metavar="MODEL", help=TOKENS_FROM)
    add("--strict", action="store_true", help="stop when a cut has more tokens than frames")
    options, overrides = parser.split()
    prepare_tokens(
        DataFolder(options.data_dir),
        split_patterns(options),
        None if options.units == "char" else options.vocab_size,
        labelled_hours=labelled_hours(options.config, overrides) if options.config else (0.0,),
        model=find_model(options.tokens_from) if options.tokens_from else None,
        others=other_cuts(options.config, overrides) if options.config else (),
        strict=options.strict,
    )


if __name__ == "__main__":
    run_program(main)
