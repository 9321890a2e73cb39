#!/usr/bin/env python3
"""Train a multi-codebook quantizer: those of an experiment, or one on any embeddings.

    python local/train_quantizer.py --config egs/x/conf/mvq.yaml --data-dir data/x --exp-root exp/x
    python local/train_quantizer.py --embeddings data/x/sample/layer-36 --output data/x/quantizer.pt

Writes quantizer.pt, its report quantizer.json and quantizer.md and, with cuts,
quantizer.code_predictor.pt; see mvqkd.recipe.stages.quantizer. With --import nothing is trained: a
quantizer that was made elsewhere, by this package or by multi_quantization, is measured on the same
utterances.
"""

from __future__ import annotations

from pathlib import Path

import torch

from mvqkd.recipe.config.command_line import ExperimentParser
from mvqkd.recipe.options import Renamed, add_experiment_options, experiment_inputs, require_options
from mvqkd.recipe.program import run_program
from mvqkd.recipe.stages.quantizer import (
    QuantizerTraining,
    train_for_experiment,
    train_quantizer,
)


def main() -> None:
    parser = ExperimentParser(__doc__)
    add_experiment_options(parser.options, required=False)
    add, default = parser.options.add_argument, QuantizerTraining()
    add("--embeddings", type=Path, help="folder or file of one layer's embeddings")
    add("--output", type=Path, help="quantizer.pt")
    add("--num-codebooks", type=int, default=default.num_codebooks, help="bytes of a frame")
    add("--codebook-size", type=int, default=default.codebook_size, help="entries of a codebook")
    add("--num-steps", type=int, help="of training (default: the quantizer's own)")
    add("--import", type=Path, dest="source", help="take this quantizer instead of training one")
    add(
        "--held-out", type=float, default=default.held_out, help="fraction of utterances to test on"
    )
    add("--cuts", type=Path, nargs="*", default=[], help="manifests that have their features")
    add(
        "--predictor-steps",
        "--probe-steps",
        action=Renamed,
        type=int,
        default=default.predictor_steps,
        help="of training that network",
    )
    add("--weighting", choices=("none", "deviation"), default="none", help="of dimensions")
    add("--seed", type=int, default=default.seed, help="of training and held-out utterances")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    loaded, options = parser.parse()
    if options.config is not None:
        train_for_experiment(experiment_inputs(loaded, options), options.device)
        return
    require_options(parser.options, options, "embeddings", "output")
    how = QuantizerTraining(
        num_codebooks=options.num_codebooks,
        codebook_size=options.codebook_size,
        num_steps=options.num_steps,
        source=options.source,
        held_out=options.held_out,
        predictor_steps=options.predictor_steps,
        seed=options.seed,
        device=options.device,
        weighting=options.weighting,
    )
    train_quantizer(options.embeddings, options.output, how, cuts_paths=options.cuts)


if __name__ == "__main__":
    run_program(main)
