#!/usr/bin/env python3
"""Write a quantizer as the state dict that `multi_quantization`, and with it icefall, loads.

    python local/export_quantizer.py --quantizer data/x/quantizer.pt \\
        --embeddings data/x/sample/layer-36 --output quantizer_icefall.pt

It decodes our codes to their direct sum; the correction that our decoding makes has no place in it.
Its encoder begins with a linear guess, which is fitted here to the codes of the embeddings.
`local/train_quantizer.py --import` reads such files.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from mvqkd.data.targets.embeddings import EmbeddingFrames, EmbeddingStore
from mvqkd.errors import UserError
from mvqkd.quantization import Quantizer
from mvqkd.quantization.multi_quantization.exchange import to_multi_quantization
from mvqkd.recipe.program import run_program
from mvqkd.storage.tensors import save_tensors


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--quantizer", type=Path, required=True, help="quantizer.pt of local/train_quantizer.py")
    add("--embeddings", type=Path, required=True, help="folder or file of its layer's embeddings")
    add("--output", type=Path, required=True, help="file of the state dict")
    add("--num-steps", type=int, default=500, help="of fitting the linear guess (%(default)s)")
    options = parser.parse_args()

    quantizer = Quantizer.load(options.quantizer)
    store = EmbeddingStore(options.embeddings)
    if store.info.dim != quantizer.dim:
        raise UserError(
            f"{options.embeddings} has {store.info.dim} dimensions, {options.quantizer} "
            f"{quantizer.dim}",
            remedy="give embeddings of the quantizer's teacher and layer",
        )
    try:
        state = to_multi_quantization(
            quantizer, EmbeddingFrames(store, list(store)), num_steps=options.num_steps
        )
    except ValueError as error:
        raise UserError(
            str(error), remedy="train one with 2, 4, 8, ... codebooks and without weighting"
        ) from error
    save_tensors(options.output, state)
    logging.info("%s: id %s", options.output, quantizer.id)


if __name__ == "__main__":
    run_program(main)
