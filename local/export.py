#!/usr/bin/env python3
"""Export an experiment's student: ONNX files for sherpa-onnx, in a model folder that can be shared.

    python local/export.py --exp-dir exp/mini/streaming_mvq --data-dir data/mini
    python local/export.py ... --recognizers offline,streaming --precisions float32,int8 --heads ctc
    python local/export.py ... --upload hf:OWNER/NAME

Writes <exp-dir>/export. Weights are those that section `decoding` names. What the command line does
not say is as in section `export` of the experiment; fields of that section need no `export.` before
their names. Run again with the same settings, it costs nothing.
"""

from __future__ import annotations

from pathlib import Path

from mvqkd.recipe.config.command_line import ExperimentParser
from mvqkd.recipe.options import at_least
from mvqkd.recipe.program import run_program
from mvqkd.recipe.stages.export_options import complete_names, export_inputs


def main() -> None:
    parser = ExperimentParser(__doc__)
    add = parser.options.add_argument
    add("--exp-dir", type=Path, required=True, help="folder of the experiment")
    add("--data-dir", type=Path, required=True, help="prepared data")
    add("--vocab-size", type=int, help="tokens (default: those of the training)")
    add("--num-workers", type=at_least(0), default=1, help="processes that read features")
    add("--force", action="store_true", help="export again what is there with the same settings")
    options, overrides = parser.split(complete_names())
    inputs = export_inputs(
        options.exp_dir, options.data_dir, overrides, vocab_size=options.vocab_size
    )

    # Imported late: wrong options are reported without waiting for torch.
    from mvqkd.recipe.stages.export import export_experiment

    export_experiment(options.exp_dir, inputs, num_workers=options.num_workers, force=options.force)


if __name__ == "__main__":
    run_program(main)
