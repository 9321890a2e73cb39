"""Stage 11: the experiments of a recipe in a table, pictures and training curves."""

from __future__ import annotations

import logging
from pathlib import Path

from mvqkd.errors import UserError
from mvqkd.evaluation.delay_picture import draw_delays
from mvqkd.evaluation.delays import delays_section
from mvqkd.evaluation.gather import chunk_of, compare, read_experiments
from mvqkd.evaluation.pictures import draw_error_rates, draw_storage, draw_training
from mvqkd.evaluation.report import results_page, results_table
from mvqkd.storage.files import write_text


def write_results(
    root: Path,
    *,
    baseline_name: str = "baseline",
    by_speaker: bool = False,
    delay_reference: str = "",
    data_dir: Path | None = None,
) -> None:
    """Write `RESULTS.md`, `wer.png` and, where amounts differ, `storage.png`, and with delays
    `delays.png`; `log/curves.png` in each experiment's folder. The table is printed too.

    Args:
        root: folder of the recipe's experiments.
        baseline_name: experiment that the others are compared with.
        by_speaker: resample speakers instead of utterances (LibriSpeech ids): wider, safer
            intervals.
        delay_reference: experiment with full context that emission delays of streaming students are
            measured against; empty: they are not measured.
        data_dir: prepared data, needed with it.

    Raises:
        UserError: no experiment has been decoded, or the reference cannot align.
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
    kind = None
    if delay_reference and any(chunk_of(r) for e in decoded for r in e.results):
        # Imported late: other results are gathered without waiting for torch.
        from mvqkd.recipe.stages.delays import add_delays

        if data_dir is None:
            raise ValueError("delays need data_dir")
        kind = add_delays(decoded, root / delay_reference, data_dir)
    baseline = {experiment.name: experiment for experiment in decoded}.get(baseline_name)
    if baseline is None:
        logging.info("%s is not decoded: there are no differences from it", root / baseline_name)
    compared = {
        experiment.name: compare(experiment, baseline, by_speaker=by_speaker)
        for experiment in decoded
        if baseline is not None and experiment is not baseline
    }
    draw_error_rates(root / "wer.png", decoded, by_speaker=by_speaker)
    pictures = ["wer.png"]
    if draw_storage(root / "storage.png", decoded, by_speaker=by_speaker):
        pictures.append("storage.png")
    section = ""
    if kind is not None:
        section = delays_section(
            decoded, compared, reference=delay_reference, kind=kind, baseline=baseline_name
        )
        path = root / "delays.png"
        if draw_delays(path, decoded, reference=delay_reference, by_speaker=by_speaker):
            pictures.append("delays.png")
    page = results_page(
        root.name,
        decoded,
        baseline_name,
        compared,
        by_speaker=by_speaker,
        pictures=[*pictures, *(f"{e.name}/log/curves.png" for e in decoded if e.metrics)],
        delays=section,
    )
    write_text(root / "RESULTS.md", page)
    print(results_table(decoded, by_speaker=by_speaker), end="")
    logging.info("wrote %s and %s", root / "RESULTS.md", root / "wer.png")
