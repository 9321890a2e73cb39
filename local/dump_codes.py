#!/usr/bin/env python3
"""Dump codebook indexes of a teacher's embeddings: what an experiment needs, or of any cuts.

    python local/dump_codes.py --config egs/x/conf/mvq.yaml --data-dir data/x --exp-root exp/x
    python local/dump_codes.py --cuts data/x/fbank/librispeech_cuts_train-clean-100.jsonl.gz \\
        --quantizer data/x/quantizer.pt --output data/x/codes
    torchrun --nproc-per-node 4 local/dump_codes.py ...

Writes codes-<split>-<k>-of-<n>.h5 and verifies them all at the end; see mvqkd.recipe.stages.codes.
Killed, the same command goes on with the shards that are missing.
"""

from __future__ import annotations

from pathlib import Path

from mvqkd.recipe.config.command_line import ExperimentParser
from mvqkd.recipe.options import (
    Renamed,
    add_experiment_options,
    add_teacher_options,
    experiment_inputs,
    require_options,
)
from mvqkd.recipe.program import run_program
from mvqkd.recipe.stages.codes import dump_codes, dump_for_experiment
from mvqkd.recipe.stages.embeddings import teacher_pass


def main() -> None:
    parser = ExperimentParser(__doc__)
    add_experiment_options(parser.options, required=False)
    add_teacher_options(parser.options, shard_hours=5.0)
    add = parser.options.add_argument
    add("--cuts", type=Path, nargs="+", help="manifests of all training cuts")
    add("--quantizer", type=Path, help="quantizer.pt of local/train_quantizer.py")
    add("--output", type=Path, help="folder of the codes")
    add("--teacher", help="URI (default: the one that the quantizer was trained on)")
    add(
        "--rate-distortion-weight",
        "--rate-weight",
        action=Renamed,
        type=float,
        default=0.0,
        help="cost of a nat of codes as a fraction of the embeddings' energy; 0: nearest codes",
    )
    loaded, options = parser.parse()
    if options.config is not None:
        dump_for_experiment(experiment_inputs(loaded, options), teacher_pass(options))
        return
    require_options(parser.options, options, "cuts", "quantizer", "output")
    dump_codes(
        options.cuts,
        options.quantizer,
        options.output,
        teacher_uri=options.teacher,
        rate_distortion_weight=options.rate_distortion_weight,
        how=teacher_pass(options),
    )


if __name__ == "__main__":
    run_program(main)
