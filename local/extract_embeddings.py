#!/usr/bin/env python3
"""Extract a teacher's embeddings: what an experiment needs, or of any cuts.

    python local/extract_embeddings.py --config egs/x/conf/mvq.yaml --data-dir data/x \\
        --exp-root exp/x
    python local/extract_embeddings.py --teacher torchaudio:HUBERT_ASR_XLARGE --layers 36 \\
        --cuts data/x/fbank/librispeech_cuts_train-clean-100.jsonl.gz --output data/x/embeddings
    torchrun --nproc-per-node 4 local/extract_embeddings.py ...

Writes layer-<i>/embeddings-<k>-of-<n>.h5. Killed, the same command goes on with the shards that are
missing.
"""

from __future__ import annotations

from pathlib import Path

from mvqkd.recipe.config.command_line import ExperimentParser
from mvqkd.recipe.options import (
    add_experiment_options,
    add_teacher_options,
    at_least,
    experiment_inputs,
    require_options,
)
from mvqkd.recipe.program import run_program
from mvqkd.recipe.stages.embeddings import (
    extract_embeddings,
    extract_for_experiment,
    teacher_pass,
)


def main() -> None:
    parser = ExperimentParser(__doc__)
    add_experiment_options(parser.options, required=False)
    add_teacher_options(parser.options, shard_hours=1.0)
    add = parser.options.add_argument
    add("--cuts", type=Path, nargs="+", help="manifests of cuts with audio")
    add("--teacher", help="URI: torchaudio:NAME, hf:ID, ...; see mvqkd.teachers.load")
    add("--layers", type=int, nargs="+", help="1-based; 0: input of the first")
    add("--output", type=Path, help="folder")
    add("--num-utterances", type=at_least(0), default=1000, help="sample; 0: all (%(default)s)")
    add("--seed", type=int, default=0, help="of the sample (%(default)s)")
    add("--dtype", choices=["float16", "float32"], default="float16", help="in the files")
    loaded, options = parser.parse()
    if options.config is not None:
        extract_for_experiment(experiment_inputs(loaded, options), teacher_pass(options))
        return
    require_options(parser.options, options, "cuts", "teacher", "layers", "output")
    extract_embeddings(
        options.cuts,
        options.teacher,
        options.layers,
        options.output,
        num_utterances=options.num_utterances,
        seed=options.seed,
        dtype=options.dtype,
        how=teacher_pass(options),
    )


if __name__ == "__main__":
    run_program(main)
