"""Stage 11: the experiments of a recipe in a table, pictures and training curves."""

from __future__ import annotations

import logging
from pathlib import Path

from mvqkd.errors import UserError
from mvqkd.evaluation.gather import compare, read_experiments
from mvqkd.evaluation.pictures import draw_error_rates, draw_storage, draw_training
from mvqkd.evaluation.report import results_page, results_table
from mvqkd.storage.files import write_text


def write_results(root: Path, *, baseline_name: str = "baseline", by_speaker: bool = False) -> None:
    """Write `RESULTS.md`, `wer.png` and, where amounts differ, `storage.png`; `log/curves.png` in
    each experiment's folder. The table is printed too.

    Args:
        root: folder of the recipe's experiments.
        baseline_name: experiment that the others are compared with.
        by_speaker: resample speakers instead of utterances (LibriSpeech ids): wider, safer
            intervals.

    Raises:
        UserError: no experiment has been decoded.
    """
    experiments = read_experiments(root)
    for experiment in experiments:
        if experiment.metrics:
            path = experiment.folder / "log" / "curves.png"
            draw_training(path, experiment.name, experiment.metrics)
            logging.info("wrote %s", path)
    decoded = [experiment for experiment in experiments if experiment.results]
    if not decoded:
        raise UserError(f"no experiment in {root} has been decoded", step="decoding")
    baseline = {experiment.name: experiment for experiment in decoded}.get(baseline_name)
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
        baseline_name,
        compared,
        by_speaker=by_speaker,
        pictures=[*pictures, *(f"{e.name}/log/curves.png" for e in decoded if e.metrics)],
    )
    write_text(root / "RESULTS.md", page)
    print(results_table(decoded, by_speaker=by_speaker), end="")
    logging.info("wrote %s and %s", root / "RESULTS.md", root / "wer.png")
