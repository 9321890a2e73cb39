"""Data of other folders, named in an experiment to be replayed or validated on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mvqkd.data.folder import DataFolder
from mvqkd.data.loading.excluded import read_excluded
from mvqkd.data.loading.index import open_index
from mvqkd.data.loading.tokenizer import Tokenizer
from mvqkd.errors import UserError
from mvqkd.recipe.config.schema import DataConfig, ExperimentConfig
from mvqkd.recipe.other_data import OtherCuts, extra_dev_cuts, other_cuts, replayed_cuts
from mvqkd.recipe.run_folder import check_folder, describe_data, write_folder
from mvqkd.recipe.stages.tokens import find_model, prepare_tokens
from mvqkd.storage.jsonl import read_items, write_items

TRAIN, DEV = "fbank/tiny_cuts_train-tiny.jsonl.gz", "fbank/tiny_cuts_dev-a.jsonl.gz"


@pytest.fixture
def old(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "old"))


@pytest.fixture
def new(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "new"))


def names(cuts: list[OtherCuts]) -> list[str]:
    return [one.name for one in cuts]


def test_a_folder_stands_for_its_splits_of_a_role(old: Path) -> None:
    data = DataConfig(replay=[str(old)], extra_dev=[str(old)])
    assert replayed_cuts(data) == [OtherCuts("old/train-tiny", old / TRAIN)]
    assert extra_dev_cuts(data) == [OtherCuts("old/dev-a", old / DEV)]
    assert replayed_cuts(DataConfig()) == extra_dev_cuts(DataConfig()) == []


def test_a_manifest_stands_for_itself(old: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "mine" / "calls_cuts_2024.jsonl.gz"
    elsewhere.parent.mkdir()
    shutil.copy(old / TRAIN, elsewhere)
    data = DataConfig(replay=[str(old / DEV), str(elsewhere), str(old / DEV)])
    assert names(replayed_cuts(data)) == ["old/dev-a", "mine/2024"]


def test_what_is_no_data_is_refused_by_name(old: Path, tmp_path: Path) -> None:
    for value, problem in (
        (tmp_path / "none", "none, of data.replay, is missing"),
        (tmp_path, "of data.replay, is no folder of prepared data"),
    ):
        with pytest.raises(UserError, match=problem):
            replayed_cuts(DataConfig(replay=[str(value)]))
    (old / DEV).unlink()
    with pytest.raises(UserError, match=r"dev-a\.jsonl\.gz, of data\.extra_dev, is missing"):
        extra_dev_cuts(DataConfig(extra_dev=[str(old)]))


def test_two_of_one_name_are_refused(old: Path, tmp_path: Path) -> None:
    again = Path(shutil.copytree(old, tmp_path / "elsewhere" / "old"))
    with pytest.raises(UserError, match=r"both called old/train-tiny") as error:
        replayed_cuts(DataConfig(replay=[str(old), str(again)]))
    assert str(again) in error.value.problem
    for name, folder in (("a", old), ("b", again)):
        (tmp_path / f"{name}.yaml").write_text(f"data:\n  replay: {folder}\n")
    files = [tmp_path / "a.yaml", tmp_path / "b.yaml"]
    with pytest.raises(UserError, match="both called"):
        other_cuts(files)
    overrides = [("data.replay", str(again)), ("data.extra_dev", f"[{again}, {old / TRAIN}]")]
    with pytest.raises(UserError, match="both called"):
        other_cuts(files, overrides)
    assert names(other_cuts(files, overrides[:1])) == ["old/train-tiny"]


def test_stage_3_checks_the_tokens_against_other_data(old: Path, new: Path) -> None:
    items = list(read_items(old / TRAIN))
    items[1]["supervisions"][0]["text"] = "A ŽLUŤ CAT"
    write_items(old / TRAIN, items)
    (one,) = replayed_cuts(DataConfig(replay=[str(old)]))
    lang = new / "lang_bpe_30"
    with pytest.raises(UserError, match="were not checked against") as error:
        one.checked_lang(lang)
    assert error.value.step == "tokens" and str(old / TRAIN) in error.value.problem
    prepare_tokens(DataFolder(new), {}, 30, others=[one])
    folder = one.checked_lang(lang)
    assert folder == lang / "other" / "old"
    assert read_excluded(folder, one.path) == {items[1]["id"]}
    report = json.loads((folder / "excluded_train-tiny.report.json").read_text())
    (kind,) = report["left_out"]
    assert "characters" in kind and report["left_out"][kind]["count"] == 1
    # The lists of the new data's own splits, which have the same names, are others.
    assert read_excluded(lang, new / TRAIN) == set()
    assert open_index(new / TRAIN, lang).fingerprint() != open_index(one.path, folder).fingerprint()
    (folder / "bpe.model").write_bytes(b"damaged")
    with pytest.raises(UserError, match="were not checked against"):
        one.checked_lang(lang)


def test_tokens_of_a_model_are_taken(old: Path, new: Path, tmp_path: Path) -> None:
    exp = tmp_path / "exp"
    exp.mkdir()
    with pytest.raises(UserError, match=f"{exp} has no bpe.model"):
        find_model(str(exp))
    for name in ("bpe.model", "tokens.txt"):
        shutil.copy(old / "lang_bpe_30" / name, exp)
    assert find_model(str(exp)) == find_model(str(exp / "bpe.model")) == exp / "bpe.model"
    shutil.rmtree(new / "lang_bpe_30")
    # Whatever number of tokens is asked for.
    prepare_tokens(DataFolder(new), {}, 77, model=exp / "bpe.model")
    assert Tokenizer.load(DataFolder(new).lang()).tokens == Tokenizer.load(exp).tokens
    before = (DataFolder(new).lang() / "bpe.report.json").read_bytes()
    prepare_tokens(DataFolder(new), {}, 77, model=exp / "bpe.model")
    assert (DataFolder(new).lang() / "bpe.report.json").read_bytes() == before


def test_tokens_of_a_model_that_cannot_be_taken(old: Path, new: Path, tmp_path: Path) -> None:
    model = old / "lang_bpe_30" / "bpe.model"
    supervisions = DataFolder(new).manifest("supervisions", "train-tiny")
    items = list(read_items(supervisions))
    write_items(supervisions, [items[0] | {"text": "THE ŽLUŤ CAT"}, *items[1:]])
    shutil.rmtree(new / "lang_bpe_30")
    with pytest.raises(UserError, match="cannot spell 1 of 10 training transcripts: it does not"):
        prepare_tokens(DataFolder(new), {}, 30, model=model)
    assert not (new / "lang_bpe_30").exists()
    prepare_tokens(DataFolder(new), {}, 30)  # with tokens of its own
    with pytest.raises(UserError, match="has other tokens than"):
        prepare_tokens(DataFolder(new), {}, 30, model=model)


def test_another_replay_is_another_training(old: Path, new: Path, tmp_path: Path) -> None:
    lang, exp = new / "lang_bpe_30", tmp_path / "exp"
    experiment = ExperimentConfig(data=DataConfig(replay=[str(old)], extra_dev=[str(old)]))

    def described() -> dict[str, object]:
        cuts = replayed_cuts(experiment.data)
        for one in cuts:
            one.prepare_lang(lang)
        return describe_data([new / TRAIN], [new / DEV], lang, replayed=cuts)

    write_folder(exp, experiment, described(), lang)
    (exp / "checkpoint-1.pt").touch()
    # From another place, and validated on less, it is the same.
    moved = old.rename(tmp_path / "moved")
    (moved.parent / "there").mkdir()
    moved = moved.rename(moved.parent / "there" / "old")
    experiment.data.replay, experiment.data.extra_dev = [str(moved)], []
    assert not check_folder(exp, experiment, described())
    experiment.data.replay_ratio = 2.0
    with pytest.raises(UserError, match=r"data\.replay_ratio: 1\.0 -> 2\.0"):
        check_folder(exp, experiment, described())
    experiment.data.replay_ratio = 1.0
    write_items(moved / TRAIN, list(read_items(moved / TRAIN))[1:])
    with pytest.raises(UserError, match="old/train-tiny has been made again"):
        check_folder(exp, experiment, described())
    experiment.data.replay = []
    with pytest.raises(UserError, match=r"data \(replayed\): \['old/train-tiny'\] -> None"):
        check_folder(exp, experiment, described())
