#!/usr/bin/env python3
"""Print what run.sh must know of an experiment's teacher, as assignments of shell variables.

    python local/teaching.py --config egs/x/conf/mvq.yaml --data-dir data/x --exp-root exp/x

`learns_from=` alone, without a teacher. With --teacher-experiment, nothing needs to exist yet.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from mvqkd.experiment.check import check_training
from mvqkd.experiment.parser import ExperimentParser
from mvqkd.experiment.program import run_program
from mvqkd.experiment.teaching import teacher_experiment, teaching_files


def main() -> None:
    parser = ExperimentParser(__doc__)
    add = parser.options.add_argument
    add("--data-dir", type=Path, required=True, help="prepared data")
    add("--exp-root", type=Path, required=True, help="folder of the recipe's experiments")
    add("--teacher-experiment", action="store_true", help="before the teacher is trained: its name")
    experiment, options = parser.parse()

    config = experiment.distillation
    if config.method != "none":
        check_training(experiment)  # not after hours of work with the teacher
    values: dict[str, object] = {"learns_from": config.learns_from}
    if options.teacher_experiment:
        values["teacher_experiment"] = teacher_experiment(config)
    elif config.method != "none":
        files = teaching_files(config, options.data_dir, options.exp_root)
        values |= {
            "teacher": files.teacher,
            "teacher_layer": config.teacher_layer,
            "teacher_dir": files.folder,
            "targets": config.targets,
            "sample": files.sample,
            "sample_utterances": config.sample_utterances,
            "embeddings": files.embeddings,
            "quantizer": files.quantizer,
            "imported_quantizer": config.quantizer,
            "quantizer_steps": config.quantizer_steps or "",
            "num_codebooks": config.num_codebooks,
            "rate_weight": config.rate_weight,
            "codes": files.codes,
        }
    for name, value in values.items():
        print(f"{name}={shlex.quote(str(value))}")


if __name__ == "__main__":
    run_program(main)
