"""Which splits of a corpus are prepared, what each is for, and what later stages know of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mvqkd.data.folder import DataFolder
from mvqkd.errors import UserError
from tests.data.prepare.manifests import ids, report, run


@pytest.fixture
def overlapping(corpus: Path, tmp_path: Path) -> Path:
    """The corpus with five utterances of `train-tiny` in `dev-a` too."""
    root = tmp_path / "overlapping"
    shutil.copytree(corpus, root)
    source = next((root / "LibriSpeech/train-tiny").glob("*/7"))
    shutil.copytree(source, root / "LibriSpeech/dev-a" / source.parent.name / "7")
    return root


def test_an_id_in_two_training_splits_stays_in_the_first(overlapping: Path, tmp_path: Path) -> None:
    for output, parts in (
        (tmp_path / "train", {"train": ["train-tiny", "dev-a"]}),
        (tmp_path / "unlabelled", {"train": ["train-tiny"], "unlabelled": ["dev-a"]}),
    ):
        run(overlapping, output, **parts)
        assert len(ids(output, "train-tiny")) == 10
        assert len(ids(output, "dev-a")) == 4
        assert len(report(output, "dev-a")["left_out"]["duplicate id"]) == 5


@pytest.mark.parametrize(
    "parts",
    [
        {"train": ["train-tiny"], "dev": ["dev-a"]},
        {"train": ["train-tiny"], "test": ["dev-a"]},
        {"dev": ["train-tiny"], "test": ["dev-a"]},
        {"test": ["train-tiny"], "unlabelled": ["dev-a"]},
    ],
    ids=str,
)
def test_utterances_in_splits_of_different_roles_are_refused(
    overlapping: Path, tmp_path: Path, parts: dict[str, list[str]]
) -> None:
    with pytest.raises(
        UserError, match=r"5 utterances of dev-a .* is in train-tiny.*\n.*name splits"
    ):
        run(overlapping, tmp_path / "out", **parts)
    assert not (tmp_path / "out/data.json").exists()


def test_a_split_cannot_be_trained_on_and_tested_on(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dev-a .* a training split and a dev split"):
        run(corpus, tmp_path, ["*"], dev=["dev-*"])
    with pytest.raises(UserError, match=r"dev-a .* a training split and a test split"):
        run(corpus, tmp_path, ["*"], test=["dev-*"])
    # Unlabelled: the rest.
    assert run(corpus, tmp_path, dev=["dev-*"], unlabelled=["*"]) == ["dev-a", "train-tiny"]


def test_splits_of_another_corpus_stay_out(
    corpus: Path, tmp_path: Path, make_part: Callable[..., None]
) -> None:
    """Speech of one corpus may be dev or test speech of another."""
    data = tmp_path / "data"
    run(corpus, data, ["train-*"], dev=["dev-*"])
    other = tmp_path / "other"
    make_part(other, "train-other")
    make_part(other, "dev-other")
    before = sorted(data.rglob("*"))
    with pytest.raises(UserError, match=rf"another corpus, {corpus}") as error:
        run(other, data, ["train-*"], dev=["dev-*"])
    assert error.value.parameters == ("data_dir",)
    assert sorted(data.rglob("*")) == before
    # The same corpus by another name is none.
    run(corpus / "LibriSpeech", data, ["train-*"], dev=["dev-*"])


def test_later_stages_have_the_splits_of_the_last_run(
    corpus: Path, tmp_path: Path, make_part: Callable[..., None]
) -> None:
    root, data = tmp_path / "corpus", DataFolder(tmp_path / "data")
    shutil.copytree(corpus, root)
    make_part(root, "train-further", seed=5)
    with pytest.raises(UserError, match=r"data\.json.* is missing\n.*prepare the manifests"):
        data.splits()
    run(root, data.root, ["train-*"], dev=["dev-a"])
    both = {
        "train": ["train-further", "train-tiny"],
        "dev": ["dev-a"],
        "test": [],
        "unlabelled": [],
    }
    assert data.splits() == data.splits({"train": [], "dev": ["dev-*"]}) == both
    assert data.splits({"train": ["train-t*"]}) == both | {"train": ["train-tiny"]}
    assert data.prefix == "x"
    run(root, data.root, ["train-tiny"], dev=["dev-a"])
    assert data.manifest("supervisions", "train-further").is_file()  # of the run before
    assert data.splits({"train": ["train-*"]})["train"] == ["train-tiny"]
    with pytest.raises(UserError, match=r"no split train-further .*\n.*prepare others.*train-tiny"):
        data.splits({"unlabelled": ["train-further"]})
    with pytest.raises(UserError, match="a training split and a dev split"):
        data.splits({"dev": ["train-*"]})
    run(root, data.root, ["train-tiny"], dev=["dev-a"], unlabelled=["*"])
    with pytest.raises(UserError, match=r"train-further .* without transcripts\n.*prepare"):
        data.splits({"train": ["train-*"]})
    run(root, data.root, ["train-tiny"])
    with pytest.raises(UserError, match=r"no dev split .*\n.*name splits for dev"):
        data.splits()


def test_a_data_folder_can_be_moved_with_its_corpus(corpus: Path, tmp_path: Path) -> None:
    shutil.copytree(corpus, tmp_path / "here/corpus")
    run(tmp_path / "here/corpus", tmp_path / "here", ["train-*"])
    (tmp_path / "here").rename(tmp_path / "there")
    run(tmp_path / "there/corpus", tmp_path / "there", ["train-*"])
