#!/usr/bin/env python3
"""Gather the experiments of a recipe into a table, a picture and training curves.

    python local/results.py --exp-dir exp/mini [--baseline baseline] [--by-speaker]

Writes <exp-dir>/RESULTS.md and <exp-dir>/wer.png, log/curves.png in each experiment's folder, and
<exp-dir>/storage.png (error rates against the stored bytes of the teacher) when they differ.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from mvqkd.errors import UserError
from mvqkd.evaluation.gather import compare, read_experiments
from mvqkd.evaluation.pictures import draw_error_rates, draw_storage, draw_training
from mvqkd.evaluation.report import results_page, results_table
from mvqkd.experiment.program import run_program
from mvqkd.files import write_text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--exp-dir", type=Path, required=True, help="folder of the recipe's experiments"
    )
    parser.add_argument(
        "--baseline", default="baseline", help="experiment that the others are compared with"
    )
    parser.add_argument(
        "--by-speaker",
        action="store_true",
        help="resample speakers instead of utterances (LibriSpeech ids): wider, safer intervals",
    )
    options = parser.parse_args()
    root, by_speaker = options.exp_dir, options.by_speaker
    experiments = read_experiments(root)
    for experiment in experiments:
        if experiment.metrics:
            path = experiment.folder / "log" / "curves.png"
            draw_training(path, experiment.name, experiment.metrics)
            logging.info("wrote %s", path)
    decoded = [experiment for experiment in experiments if experiment.results]
    if not decoded:
        raise UserError(
            f"no experiment in {root} has been decoded", remedy="./run.sh --stage 9 --stop-stage 9"
        )
    baselines = {experiment.name: experiment for experiment in decoded}
    baseline = baselines.get(options.baseline)
    compared = {
        experiment.name: compare(experiment, baseline, by_speaker=by_speaker)
        for experiment in decoded
        if baseline is not None and experiment is not baseline
    }
    draw_error_rates(root / "wer.png", decoded, by_speaker=by_speaker)
    pictures = ["wer.png"]
    if draw_storage(root / "storage.png", decoded, by_speaker=by_speaker):
        pictures.append("storage.png")
    page = results_page(
        root.name,
        decoded,
        options.baseline,
        compared,
        by_speaker=by_speaker,
        pictures=[*pictures, *(f"{e.name}/log/curves.png" for e in decoded if e.metrics)],
    )
    write_text(root / "RESULTS.md", page)
    print(results_table(decoded, by_speaker=by_speaker), end="")
    logging.info("wrote %s and %s", root / "RESULTS.md", root / "wer.png")


if __name__ == "__main__":
    run_program(main)
