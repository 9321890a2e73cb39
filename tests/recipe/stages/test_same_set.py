"""Sets of the same name: the same utterances or others."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvqkd.errors import UserError
from mvqkd.evaluation.result_files import write_recogs
from mvqkd.evaluation.wer import Transcript
from mvqkd.recipe.stages.decode_options import labelled
from mvqkd.recipe.stages.same_set import check_same_set
from mvqkd.storage.jsonl import write_items

TEXTS = {"a-1": "THE CAT", "a-2": "A DOG", "b-1": "YES"}


@pytest.fixture
def exp(tmp_path: Path) -> Path:
    """An experiment with results of a set `test`."""
    folder = tmp_path / "exp"
    (folder / "greedy_search").mkdir(parents=True)
    found = [Transcript(name, text.split(), ["X"]) for name, text in TEXTS.items()]
    write_recogs(folder / "greedy_search" / "recogs-test-epoch-1-avg-1.txt", found)
    return folder


def cuts(folder: Path, texts: dict[str, str]) -> Path:
    path = folder / "cuts.jsonl.gz"
    write_items(
        path, [{"id": name, "supervisions": [{"text": text}]} for name, text in texts.items()]
    )
    return path


@pytest.mark.parametrize(
    "texts",
    [
        TEXTS,
        {"a-2": "A DOG"},  # fewer
        {**TEXTS, "c-1": "THE END"},  # more
        {**TEXTS, "b-1": "NO"},  # a corrected transcript
    ],
)
def test_the_same_utterances_made_again(exp: Path, texts: dict[str, str]) -> None:
    check_same_set(exp, "test", cuts(exp, texts))


@pytest.mark.parametrize(
    "texts",
    [
        {f"x-{name}": text for name, text in TEXTS.items()},
        # Of another corpus with such ids; some words are the same by chance.
        {"a-1": "THE MAT", "a-2": "NO DOG", "b-1": "YES"},
    ],
)
def test_other_utterances_of_the_same_name(exp: Path, texts: dict[str, str]) -> None:
    path = cuts(exp, texts)
    with pytest.raises(UserError, match="two sets are called test") as error:
        check_same_set(exp, "test", path)
    assert str(path) in error.value.problem and "recogs-test-epoch-1" in error.value.problem
    assert "LABEL-test" in str(error.value.remedy)
    for other in ("tes", "test-other", "other-test"):
        check_same_set(exp, other, path)


def test_references_are_compared_as_they_are_spelled(exp: Path) -> None:
    lower = {name: text.lower() for name, text in TEXTS.items()}
    with pytest.raises(UserError):
        check_same_set(exp, "test", cuts(exp, lower))
    check_same_set(exp, "test", cuts(exp, lower), str.upper)


def test_labels_name_sets_apart() -> None:
    assert labelled({"dev": 1, "test": 2}, "spelling") == {"spelling-dev": 1, "spelling-test": 2}
    assert labelled({"dev": 1}, "") == {"dev": 1}
    for label in ("a/b", "a b"):
        with pytest.raises(UserError, match="label"):
            labelled({"dev": 1}, label)
