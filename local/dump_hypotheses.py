#!/usr/bin/env python3
"""Transcribe audio with a teacher that writes text, N-best: for an experiment, or any cuts.

    python local/dump_hypotheses.py --config egs/x/conf/nbest.yaml --data-dir data/x \\
        --exp-root exp/x
    python local/dump_hypotheses.py --cuts data/x/fbank/librispeech_cuts_train-clean-100.jsonl.gz \\
        --teacher hf:openai/whisper-tiny.en --lang-dir data/x/lang_bpe_500 --output data/x/texts
    torchrun --nproc-per-node 4 local/dump_hypotheses.py ...

Writes hypotheses-<split>-<k>-of-<n>.jsonl.gz and verifies them all at the end; see
mvqkd.recipe.stages.hypotheses. Killed, the same command goes on with the shards that are missing.
Search, normalization and limits are those of the section distillation.hypotheses, with --cuts too.
"""

from __future__ import annotations

from pathlib import Path

from mvqkd.recipe.config.command_line import ExperimentParser
from mvqkd.recipe.hypothesis_distillation import spoken_text, text_limits
from mvqkd.recipe.options import (
    add_experiment_options,
    add_teacher_options,
    experiment_inputs,
    require_options,
)
from mvqkd.recipe.program import run_program
from mvqkd.recipe.stages.embeddings import teacher_pass
from mvqkd.recipe.stages.hypotheses import dump_for_experiment, dump_hypotheses


def main() -> None:
    parser = ExperimentParser(__doc__)
    add_experiment_options(parser.options, required=False)
    add_teacher_options(parser.options, shard_hours=1.0)
    add = parser.options.add_argument
    add("--cuts", type=Path, nargs="+", help="manifests of cuts with audio")
    add("--teacher", help="URI, see mvqkd.teachers.transcribers")
    add("--lang-dir", type=Path, help="folder of bpe.model")
    add("--output", type=Path, help="folder of the hypotheses")
    loaded, options = parser.parse()
    if options.config is not None:
        dump_for_experiment(experiment_inputs(loaded, options), teacher_pass(options))
        return
    require_options(parser.options, options, "cuts", "teacher", "lang_dir", "output")
    section = loaded.config.distillation.hypotheses
    dump_hypotheses(
        options.cuts,
        options.teacher,
        options.output,
        lang_dir=options.lang_dir,
        beam_size=section.beam_size,
        normalize=spoken_text(section),
        limits=text_limits(section),
        how=teacher_pass(options),
    )


if __name__ == "__main__":
    run_program(main)
