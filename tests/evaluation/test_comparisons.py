"""Differences from a baseline: which results are compared, and what comes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mvqkd.evaluation.gather import compare, read_experiments
from mvqkd.evaluation.report import differences_table
from tests.evaluation.experiments import write_experiment


def test_comparison(root: Path) -> None:
    smaller, baseline = (e for e in read_experiments(root) if e.results)
    found = compare(smaller, baseline, by_speaker=False)
    assert [c.result["method"] for c in found] == ["greedy_search", "modified_beam_search"]
    for comparison in found:
        # "one " is 4 of the 18 characters of a reference.
        for rates, part in ((comparison.words, 1 / 4), (comparison.characters, 4 / 18)):
            assert rates.difference.difference == pytest.approx(100 * part * 10 / 40)
            assert rates.difference.interval.low > 0
            assert rates.difference.better < 0.01
    # They differ in the utterances of one of four speakers.
    by_speaker = compare(smaller, baseline, by_speaker=True)[0].words.difference.interval
    by_utterance = found[0].words.difference.interval
    assert by_speaker.low < by_utterance.low and by_utterance.high < by_speaker.high
    rows = differences_table("baseline", {"smaller": found}).splitlines()
    cells = [cell.strip() for cell in rows[2].strip("|").split("|")]
    assert (cells[3], cells[5]) == ("+6.25", "+50.0 %")
    assert (cells[7], cells[9]) == ("+5.56", "+50.0 %")
    # Another reference: not the same test set.
    path = root / "smaller" / "greedy_search" / "recogs-test-epoch-3-avg-1.txt"
    path.write_text(path.read_text().replace("ref=['one'", "ref=['won'", 1))
    found = compare(smaller, baseline, by_speaker=False)
    assert [c.result["method"] for c in found] == ["modified_beam_search"]


@pytest.mark.parametrize(("name", "other"), [("smaller", "baseline"), ("baseline", "smaller")])
def test_of_several_decodings_the_last_is_compared(root: Path, name: str, other: str) -> None:
    for kind, ending in (("recogs", "txt"), ("result", "json")):
        source = root / other / "greedy_search" / f"{kind}-test-epoch-3-avg-1.{ending}"
        # Its suffix comes before that of the earlier one.
        text = source.read_text().replace("epoch-3", "epoch-10").replace("01-03", "01-09")
        path = root / name / "greedy_search" / f"{kind}-test-epoch-10-avg-1.{ending}"
        path.write_text(text)
    smaller, baseline = (e for e in read_experiments(root) if e.results)
    greedy, beam = compare(smaller, baseline, by_speaker=False)
    assert greedy.words.difference.difference == 0 < beam.words.difference.difference


def decode_again(root: Path, name: str, like: str, **settings: Any) -> None:
    """Results of greedy search with chunks, with the transcripts of the experiment `like`, one
    after the other."""
    for count, (suffix, chunk) in enumerate(settings.items()):
        for kind, ending in (("recogs", "txt"), ("result", "json")):
            source = root / like / "greedy_search" / f"{kind}-test-epoch-3-avg-1.{ending}"
            text = source.read_text()
            if kind == "result":
                facts = {"suffix": suffix, "time": f"2026-02-{count + 1:02d}"}
                text = json.dumps(json.loads(text) | facts | {"settings": {"chunk_size": chunk}})
            (root / name / "greedy_search" / f"{kind}-test-{suffix}.{ending}").write_text(text)


def test_equal_chunk_sizes_are_compared(root: Path) -> None:
    for name in ("s", "t"):
        write_experiment(root, name, 20, 3_000_000)
        for path in (root / name).glob("*/*-epoch-3-avg-1.*"):
            path.rename(root / path.name)  # nothing with full context
    found = {e.name: e for e in read_experiments(root)}
    decode_again(root, "s", "baseline", chunk16=16, chunk4=4)
    decode_again(root, "t", "smaller", chunk16=16, chunk4=4, chunk8=8)
    found = {e.name: e for e in read_experiments(root)}
    assert [r["suffix"] for r in found["t"].results] == ["chunk4", "chunk8", "chunk16"]
    compared = compare(found["t"], found["s"], by_speaker=False)
    pairs = [(c.result["suffix"], c.other["suffix"]) for c in compared]
    assert pairs == [("chunk4", "chunk4"), ("chunk16", "chunk16")]
    assert all(c.words.difference.difference == pytest.approx(6.25) for c in compared)
    # With full context on one side, all are.
    compared = compare(found["t"], found["baseline"], by_speaker=False)
    assert [c.result["suffix"] for c in compared] == ["chunk4", "chunk8", "chunk16"]
    rows = differences_table("baseline", {"t": compared}).splitlines()
    assert "| t | test | greedy_search, 160 ms (baseline: full context) | +6.25 |" in rows[2]
    (compared,) = compare(found["baseline"], found["t"], by_speaker=False)
    assert compared.other["suffix"] == "chunk8"  # the last decoded
    found["t"].config["model"] = {"chunk_size": [-1, 16]}
    (compared,) = compare(found["baseline"], found["t"], by_speaker=False)
    assert compared.other["suffix"] == "chunk16"  # that of the training
