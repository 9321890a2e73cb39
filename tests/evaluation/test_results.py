"""Folders of experiments to a page and pictures."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.text import Text

from mvqkd.evaluation.gather import compare, read_experiments
from mvqkd.evaluation.pictures import (
    _error_rates,
    apart,
    draw_error_rates,
    draw_storage,
    draw_training,
)
from mvqkd.evaluation.report import (
    budgets,
    markdown_table,
    results_page,
    results_table,
)
from tests.evaluation.experiments import write_experiment

PNG = b"\x89PNG"


def write_stored(folder: Path, **amounts: float) -> None:
    """The targets of distillation losses take so many bytes an hour; equal amounts are of the
    same files."""
    facts = {name: {"teacher": "hf:x", "bytes_per_hour": n} for name, n in amounts.items()}
    (folder / "distillation.json").write_text(json.dumps(facts))


def test_table(root: Path) -> None:
    experiments = [e for e in read_experiments(root) if e.results]
    assert [e.name for e in experiments] == ["smaller", "baseline"]
    rows = results_table(experiments, by_speaker=False).splitlines()
    assert len(rows) == 2 + 4
    cells = [cell.strip() for cell in rows[2].strip("|").split("|")]
    assert cells[:5] == ["smaller", "1.50", "30", "15.0", "0.30"]
    assert cells[5] == "greedy_search (epoch-3-avg-1)" and cells[6].startswith("18.75 (")
    assert cells[7:] == ["16.67", "0.0123", "012345678+", "7"]
    assert results_table(experiments, by_speaker=True) != "\n".join(rows)


def test_unequal_budgets_are_said_in_words(root: Path) -> None:
    smaller, baseline = (e for e in read_experiments(root) if e.results)
    assert budgets(baseline, [baseline, smaller]) == ""
    path = smaller.folder / "log" / "metrics.jsonl"
    more = {"kind": "train", "step": 60, "audio_hours": 15.1, "elapsed": 9.0}
    path.write_text(path.read_text().replace('{"kind": "tr', json.dumps(more) + "\n"))
    smaller, baseline = (e for e in read_experiments(root) if e.results)
    assert "- smaller was trained with 60 steps, not 30." in budgets(baseline, [smaller])
    more |= {"step": 30, "audio_hours": 30.0}
    path.write_text(path.read_text() + json.dumps(more) + "\n")
    smaller, baseline = (e for e in read_experiments(root) if e.results)
    text = budgets(baseline, [smaller])
    assert "- smaller was trained with 30.0 hours of audio, not 15.0." in text
    compared = {"smaller": compare(smaller, baseline, by_speaker=False)}
    page = results_page(
        "demo", [smaller, baseline], "baseline", compared, by_speaker=False, pictures=[]
    )
    assert text in page


def test_storage_of_a_teacher_stands_beside_its_students(root: Path) -> None:
    write_stored(root / "smaller", codes=1.44e6)
    experiments = [e for e in read_experiments(root) if e.results]
    header, _, *rows = results_table(experiments, by_speaker=False).splitlines()
    column = header.split("|").index(" teacher's MB an hour ")
    found = {row.split("|")[1].strip(): row.split("|")[column].strip() for row in rows}
    assert found == {"smaller": "1.44", "baseline": ""}


def test_files_that_losses_share_are_stored_once(root: Path) -> None:
    def stored(name: str) -> float:
        return next(e for e in read_experiments(root) if e.name == name).stored_bytes

    write_stored(root / "smaller", codes=1.44e6, embeddings=1.44e6)
    write_stored(root / "baseline", codes=1.44e6, embeddings=138e6)
    assert (stored("smaller"), stored("baseline")) == (1.44e6, 139.44e6)


@pytest.mark.parametrize(
    ("kind", "facts"), [("codes", {"quantizer_id": "01234567"}), ("embeddings", {"dim": 384})]
)
def test_experiments_of_version_0_1_0_have_one_teacher(
    root: Path, kind: str, facts: dict[str, Any]
) -> None:
    facts = {"teacher": "hf:x", "bytes_per_hour": 1.44e6} | facts
    (root / "smaller" / "teaching.json").write_text(json.dumps(facts))
    (found,) = (e for e in read_experiments(root) if e.distillation)
    assert (found.name, found.distillation) == ("smaller", {kind: facts})
    assert "| 1.44 |" in results_table([found], by_speaker=False)
    write_stored(root / "smaller", codes=2e6)  # gone on with
    (found,) = (e for e in read_experiments(root) if e.distillation)
    assert found.stored_bytes == 2e6


def test_error_rates_against_storage_need_two_amounts(root: Path) -> None:
    path = root / "storage.png"
    for count, amount in enumerate((1.44e6, 138e6), start=1):
        name = f"student{count}"
        write_experiment(root, name, 10 * count, 3_000_000)
        write_stored(root / name, embeddings=amount)
        experiments = [e for e in read_experiments(root) if e.results]
        assert draw_storage(path, experiments, by_speaker=count == 1) == (count == 2)
        assert path.is_file() == (count == 2)
    assert path.read_bytes().startswith(PNG)


def test_of_several_decodings_the_last_is_drawn_against_storage(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for count, amount in enumerate((1.44e6, 138e6), start=1):
        name = f"student{count}"
        write_experiment(root, name, 10 * count, 3_000_000)
        write_stored(root / name, embeddings=amount)
    folder = root / "student1" / "modified_beam_search"
    result = json.loads((folder / "result-test-epoch-3-avg-1.json").read_text())
    later = result | {"suffix": "epoch-10-avg-1", "wer": 1.5, "time": "2026-01-04T00:00:00+00:00"}
    (folder / "result-test-epoch-10-avg-1.json").write_text(json.dumps(later))
    # A search that recognized nothing that there was to recognize is not the best.
    for path in root.glob("*/greedy_search/*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"wer": None}))
    drawn: list[tuple[float, str, float]] = []
    monkeypatch.setattr(
        "mvqkd.evaluation.pictures._draw_stored",
        lambda ax, amount, result, by_speaker: drawn.append(
            (amount, result["method"], result["wer"])
        ),
    )
    experiments = [e for e in read_experiments(root) if e.results]
    assert draw_storage(root / "storage.png", experiments, by_speaker=False)
    method = "modified_beam_search"
    lines = [(0.0, method, 12.5), (0.0, method, 18.75)]  # without a teacher
    assert sorted(drawn) == [*lines, (1.44, method, 1.5), (138.0, method, 12.5)]
    for path in root.glob("*/*/result-*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"wer": None}))
    experiments = [e for e in read_experiments(root) if e.results]
    assert not draw_storage(root / "storage.png", experiments, by_speaker=False)


@pytest.mark.parametrize(("amount", "touches"), [(2.88e6, True), (138e6, False)])
def test_labels_of_neighbouring_amounts_are_apart(
    root: Path, monkeypatch: pytest.MonkeyPatch, amount: float, touches: bool
) -> None:
    for name, stored in (("few", 1.44e6), ("more", amount), ("most", 138e6)):
        write_experiment(root, name, 10, 3_000_000)
        write_stored(root / name, embeddings=stored)
    heights: dict[str, float] = {}
    annotate = Axes.annotate

    def record(ax: Axes, text: str, xy: tuple[float, float], **style: Any) -> Any:
        heights[text.split()[0]] = xy[1]
        return annotate(ax, text, xy, **style)

    monkeypatch.setattr(Axes, "annotate", record)
    experiments = [e for e in read_experiments(root) if e.results and e.distillation]
    assert draw_storage(root / "storage.png", experiments, by_speaker=False)
    rate = experiments[0].results[0]["wer"]
    assert {experiment.results[0]["wer"] for experiment in experiments} == {rate}
    assert (heights["few"] != rate) == touches
    assert heights["few"] != heights["more"]


def test_a_commit_that_was_changed_once_is_marked(root: Path) -> None:
    path = root / "baseline" / "environment.json"
    (start,) = json.loads(path.read_text())
    path.write_text(json.dumps([start, start | {"dirty": False}]))
    experiments = [e for e in read_experiments(root) if e.name == "baseline"]
    assert "| 012345678+ |" in results_table(experiments, by_speaker=False)


def test_labels_keep_apart_and_near_their_values() -> None:
    assert apart([], 1) == []
    assert apart([3.0, 1.0, 2.0], 1) == [3.0, 1.0, 2.0]
    assert apart([5.0, 5.2, 9.0], 1) == pytest.approx([4.6, 5.6, 9.0])
    # The first two move each other to where the third is in the way.
    assert apart([0.0, 0.1, 1.3], 1) == pytest.approx([-1.6 / 3, 1.4 / 3, 4.4 / 3])
    values = [7.0, 0.0, 0.3, 0.2, 6.9, 1.4]
    places = apart(values, 1)
    assert sorted(range(6), key=places.__getitem__) == sorted(range(6), key=values.__getitem__)
    assert min(b - a for a, b in pairwise(sorted(places))) > 1 - 1e-9


def test_page(root: Path) -> None:
    experiments = [e for e in read_experiments(root) if e.results]
    compared = {"smaller": compare(*experiments, by_speaker=True)}
    page = results_page(
        "demo", experiments, "baseline", compared, by_speaker=True, pictures=["wer.png"]
    )
    for text in (
        "# Results of demo",
        "bootstrap over speakers",
        "- test: 2 longer than 40 s (40 utterances are decoded).",
        "## Differences from baseline",
        "| smaller | test | greedy_search | +6.25 |",
        "![wer.png](wer.png)",
        "local/train.py --exp-dir smaller\nlocal/decode.py --exp-dir smaller\n",
        "about baseline",
        "2 cores, some CPU",
        "Decoded on cpu, 2 threads.",
    ):
        assert text in page


def test_the_real_time_factor_is_that_of_the_slowest_set(root: Path) -> None:
    path = root / "smaller" / "greedy_search" / "result-test-epoch-3-avg-1.json"
    result = json.loads(path.read_text())
    for name, factor in (("dev", 0.05), ("other", 0.001)):
        other = path.with_name(f"result-{name}-epoch-3-avg-1.json")
        other.write_text(json.dumps({**result, "set": name, "rtf": factor}))
    experiments = [e for e in read_experiments(root) if e.results]
    row = results_table(experiments, by_speaker=False).splitlines()[2]
    assert "| 0.0500 |" in row


def test_the_hardware_is_that_of_the_last_start(root: Path) -> None:
    path = root / "smaller" / "environment.json"
    (start,) = json.loads(path.read_text())
    path.write_text(json.dumps([start, {**start, "cpu": "another CPU"}]))
    experiments = [e for e in read_experiments(root) if e.name == "smaller"]
    page = results_page("demo", experiments, None, {}, by_speaker=False, pictures=[])
    assert "another CPU" in page and "some CPU" not in page


def test_pictures(root: Path, tmp_path: Path) -> None:
    experiments = [e for e in read_experiments(root) if e.results]
    draw_error_rates(tmp_path / "wer.png", experiments, by_speaker=False)
    draw_training(tmp_path / "curves.png", "smaller", experiments[0].metrics)
    # A training of which only the beginning is logged.
    draw_training(tmp_path / "begin.png", "smaller", experiments[0].metrics[:1])
    for name in ("wer.png", "curves.png", "begin.png"):
        assert (tmp_path / name).read_bytes().startswith(PNG)


def test_picture_of_error_rates_says_what_they_cost(root: Path) -> None:
    experiments = [e for e in read_experiments(root) if e.results]
    figure = _error_rates(experiments, by_speaker=False)
    words = [text.get_text() for text in figure.findobj(Text)]
    assert "smaller\n1.50 M parameters\n0.30 h of training" in words
    assert words.count("0.0123") == 4  # the real-time factor of each row
    assert words.count("18.75") == 2
    # A training without a log has no hours.
    figure = _error_rates([replace(e, metrics=[]) for e in experiments], by_speaker=False)
    assert "baseline\n3.00 M parameters" in [text.get_text() for text in figure.findobj(Text)]


def test_results_without_a_character_error_rate_are_shown(root: Path) -> None:
    path = root / "smaller" / "greedy_search" / "result-test-epoch-3-avg-1.json"
    result = json.loads(path.read_text())
    del result["cer"]
    path.write_text(json.dumps(result))
    experiments = [e for e in read_experiments(root) if e.results]
    row = results_table(experiments, by_speaker=True).splitlines()[2]
    assert [cell.strip() for cell in row.split("|")][8:10] == ["", "0.0123"]


def test_rates_without_reference_words_are_shown(root: Path, tmp_path: Path) -> None:
    path = root / "smaller" / "greedy_search" / "result-test-epoch-3-avg-1.json"
    result = json.loads(path.read_text())
    none = {"wer": None, "interval": [None, None], "interval_by_speaker": None}
    path.write_text(json.dumps({**result, **none}))
    experiments = [e for e in read_experiments(root) if e.results]
    assert "| inf |" in results_table(experiments, by_speaker=True)
    draw_error_rates(tmp_path / "wer.png", experiments, by_speaker=True)


def test_markdown_table() -> None:
    assert markdown_table(["a", "b"], [["x|y", "1"], ["z", ""]]) == (
        "| a | b |\n| --- | ---: |\n| x\\|y | 1 |\n| z |  |\n"
    )
