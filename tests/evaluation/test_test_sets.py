"""What the page of results says of the test sets themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mvqkd.evaluation.gather import Experiment
from mvqkd.evaluation.report import test_sets as notes_of


def experiment(*results: dict[str, Any]) -> Experiment:
    return Experiment("x", Path("x"), list(results), [], [], {}, {})


def result(name: str, time: str, **more: Any) -> dict[str, Any]:
    return {"set": name, "time": time, "utterances": 100} | more


def test_utterances_that_are_left_out_are_told_by_reason() -> None:
    old = result("test", "1", left_out={"longer than 20 s": 9})
    new = result("test", "2", left_out={"longer than 40 s": 3, "transcript empty": 1})
    dev = result("dev", "2", left_out={})
    assert notes_of([experiment(new, dev), experiment(old)]) == (
        "Left out of the test sets:\n\n"
        "- test: 3 longer than 40 s, 1 transcript empty (100 utterances are decoded).\n"
    )


def test_references_that_a_model_respells_are_told() -> None:
    assert notes_of([experiment(result("a", "1", references_changed=2), result("b", "1"))]) == (
        "References of a are compared as `bpe.model` normalizes them.\n"
    )


def test_nothing_is_said_of_whole_sets_and_old_results() -> None:
    assert notes_of([experiment(result("a", "1"), result("b", "1", left_out={}))]) == ""
