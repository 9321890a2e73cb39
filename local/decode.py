#!/usr/bin/env python3
"""Decode splits of the corpus with an experiment's student, and count its errors.

    python local/decode.py --exp-dir exp/mini/streaming_mvq --data-dir data/mini --epoch 7 \\
        --avg 3 --method modified_beam_search --beam-size 4
    python local/decode.py ... --streaming chunked --chunk-size 16 --left-context 64
    python local/decode.py ... --splits train-mini --method modified_beam_search --nbest 4

    python local/decode.py --exp-dir exp/mine/tuned --data-dir data/librispeech --label librispeech

Writes recogs-*, errs-*, wer-summary-*, nbest-*.jsonl and result-*.json in <exp-dir>/<method>/.
What the command line does not say is as in section `decoding` of the experiment; fields of that
section need no `decoding.` before their names. Run again with the same settings, it costs nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mvqkd.recipe.config.command_line import ExperimentParser
from mvqkd.recipe.options import Renamed, Unneeded, at_least, flatten, list_option
from mvqkd.recipe.program import run_program
from mvqkd.recipe.stages.decode_options import (
    complete_names,
    decoding_inputs,
    labelled,
    left_out,
)


def main() -> None:
    parser = ExperimentParser(__doc__)
    add = parser.options.add_argument
    add("--exp-dir", type=Path, required=True, help="folder of the experiment")
    add("--data-dir", type=Path, required=True, help="prepared data")
    add(
        "--splits",
        "--test-parts",
        action=Renamed,
        type=list_option,
        nargs="+",
        default=[],
        help="names or patterns (default: the dev and test splits)",
    )
    add("--label", default="", help="before names of splits in those of results: of another corpus")
    add("--vocab-size", type=int, help="tokens (default: those of the training)")
    add("--prefix", action=Unneeded, help=argparse.SUPPRESS)
    add("--device", help="cpu or cuda (default: cuda where there is a GPU)")
    add("--num-workers", type=at_least(0), default=1, help="processes that read features")
    add("--force", action="store_true", help="decode again what is there with the same settings")
    options, overrides = parser.split(complete_names())
    decoding, sets, lang_dir = decoding_inputs(
        options.exp_dir,
        options.data_dir,
        overrides,
        patterns=flatten(options.splits),
        vocab_size=options.vocab_size,
    )

    # Imported late: wrong options are reported without waiting for torch.
    from mvqkd.recipe.stages.decode import decode_experiment

    decode_experiment(
        options.exp_dir,
        decoding,
        labelled(sets, options.label),
        lang_dir,
        device=options.device,
        num_workers=options.num_workers,
        force=options.force,
        left_out=labelled(left_out(options.data_dir, sets), options.label),
    )


if __name__ == "__main__":
    run_program(main)
