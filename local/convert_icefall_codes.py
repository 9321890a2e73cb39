#!/usr/bin/env python3
"""Read codes that icefall published, or write ours as icefall reads them.

    fbank=data/x/fbank/librispeech_cuts_train-clean-100.jsonl.gz
    icefall=vq_fbank_layer36_cb8/librispeech_cuts_train-clean-100.jsonl.gz
    python local/convert_icefall_codes.py from-icefall --cuts $fbank --icefall $icefall \\
        --quantizer quantizer.pt --codes data/x/codes/icefall.h5
    python local/convert_icefall_codes.py to-icefall --cuts $fbank --icefall $icefall \\
        --codes data/x/codes
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from mvqkd.data.targets.codes import CodesInfo, CodeStore
from mvqkd.data.targets.icefall_codes import read_icefall_codes, write_icefall_codes
from mvqkd.errors import UserError
from mvqkd.quantization import load_quantizer
from mvqkd.recipe.program import run_program
from mvqkd.storage.jsonl import read_items


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("direction", choices=["from-icefall", "to-icefall"])
    add("--cuts", type=Path, nargs="+", required=True, help="our manifests of cuts")
    add("--icefall", type=Path, nargs="+", required=True, help="icefall's manifests")
    add("--codes", type=Path, required=True, help="our code file (to-icefall: or folder)")
    # hubert_xtralarge_ll60k_finetune_ls960 of fairseq, under torchaudio's name.
    add("--teacher", default="hf:facebook/hubert-xlarge-ls960-ft", help="(%(default)s)")
    add("--layer", type=int, default=36, help="of the teacher (%(default)s)")
    add("--frame-rate", type=float, default=50.0, help="of the codes, Hz (%(default)s)")
    add("--num-codebooks", type=int, default=8, help="(%(default)s)")
    add(
        "--quantizer",
        type=Path,
        help="that made icefall's codes, if you have it; `soft`, `tied` and `l2_codes` need it",
    )
    options = parser.parse_args()

    if options.direction == "to-icefall":
        if len(options.cuts) != len(options.icefall):
            raise UserError("give as many --icefall as --cuts: one is made of each")
        store = CodeStore(options.codes)
        for cuts, output in zip(options.cuts, options.icefall, strict=True):
            write_icefall_codes(store, cuts, output)
            logging.info("%s", output)
        return
    quantizer_id = "icefall"
    if options.quantizer:
        quantizer = load_quantizer(options.quantizer)
        if quantizer.num_codebooks != options.num_codebooks:
            raise UserError(
                f"{options.quantizer} has {quantizer.num_codebooks} codebooks, "
                f"the codes are to have {options.num_codebooks}",
                remedy="give the quantizer that made them, or --num-codebooks",
            )
        quantizer_id = quantizer.id
    utterances = dict.fromkeys(item["id"] for path in options.cuts for item in read_items(path))
    info = CodesInfo(
        teacher=options.teacher,
        layer=options.layer,
        frame_rate=options.frame_rate,
        quantizer_id=quantizer_id,
        num_codebooks=options.num_codebooks,
        encoder="multi_quantization",
    )
    others = read_icefall_codes(options.icefall, options.codes, info=info, utterances=utterances)
    logging.info(
        "%s: %d utterances; %d cuts of icefall are none of ours",
        options.codes,
        len(utterances),
        others,
    )


if __name__ == "__main__":
    run_program(main)
