"""What an experiment's folder remembers of its data."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mvqkd.data.folder import DataFolder
from mvqkd.data.prepare.fbank import manifest_cuts, store_cuts, store_features
from mvqkd.errors import UserError
from mvqkd.evaluation.gather import read_distillation
from mvqkd.recipe.config.schema import ExperimentConfig
from mvqkd.recipe.run_folder import (
    check_folder,
    check_tokens_of,
    describe_data,
    lang_name,
    write_distillation,
)
from mvqkd.recipe.run_folder import write_folder as begin_folder
from mvqkd.storage.jsonl import read_items, write_items

TRAIN, DEV = "tiny_cuts_train-tiny.jsonl.gz", "tiny_cuts_dev-a.jsonl.gz"


@pytest.fixture
def data(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "data"))


def describe(data: Path, **more: list[Path]) -> dict:
    fbank = data / "fbank"
    return describe_data([fbank / TRAIN], [fbank / DEV], data / "lang_bpe_30", **more)


def write_folder(exp: Path, *arguments: Any) -> None:
    """Of a training that came to a checkpoint."""
    begin_folder(exp, *arguments)
    (exp / "checkpoint-1.pt").touch()


def other_speeds(data: Path) -> None:
    cuts = manifest_cuts(DataFolder(data), "train-tiny")
    (data / "fbank" / TRAIN).unlink()
    store_features(cuts, data / "fbank" / TRAIN, speeds=(1.0, 0.9), num_jobs=1)


def fewer_utterances(data: Path) -> None:
    write_items(data / "fbank" / TRAIN, list(read_items(data / "fbank" / TRAIN))[1:])


def another_transcript(data: Path) -> None:
    items = list(read_items(data / "fbank" / TRAIN))
    items[0]["supervisions"][0]["text"] += " CAT"
    write_items(data / "fbank" / TRAIN, items)


@pytest.mark.parametrize("change", [other_speeds, fewer_utterances, another_transcript])
def test_data_that_was_made_again_otherwise_is_refused(
    data: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    exp, experiment = tmp_path / "exp", ExperimentConfig()
    write_folder(exp, experiment, describe(data), data / "lang_bpe_30")
    change(data)
    with pytest.raises(UserError, match=f"{TRAIN} has been made again") as error:
        check_folder(exp, experiment, describe(data))
    assert DEV not in error.value.problem
    assert str(exp) in str(error.value.remedy)


def test_the_same_data_elsewhere_or_extracted_on_the_fly_is_the_same(
    data: Path, tmp_path: Path
) -> None:
    exp, experiment = tmp_path / "exp", ExperimentConfig()
    write_folder(exp, experiment, describe(data), data / "lang_bpe_30")
    data = data.rename(tmp_path / "moved")
    check_folder(exp, experiment, describe(data))
    cuts = manifest_cuts(DataFolder(data), "train-tiny")
    store_cuts(cuts, data / "fbank" / TRAIN)
    check_folder(exp, experiment, describe(data))


def test_trainings_from_before_fingerprints_go_on_and_get_them(data: Path, tmp_path: Path) -> None:
    exp, experiment = tmp_path / "exp", ExperimentConfig()
    old = {key: value for key, value in describe(data).items() if key != "cuts"}
    write_folder(exp, experiment, old, data / "lang_bpe_30")
    assert not check_folder(exp, experiment, describe(data))
    # As a training does that goes on.
    write_folder(exp, experiment, describe(data), data / "lang_bpe_30")
    assert json.loads((exp / "data.json").read_text())["cuts"].keys() == {TRAIN, DEV}
    fewer_utterances(data)
    with pytest.raises(UserError, match="made again"):
        check_folder(exp, experiment, describe(data))


def test_a_training_that_failed_before_its_first_checkpoint_blocks_nothing(
    data: Path, tmp_path: Path
) -> None:
    wrong, right = ExperimentConfig(), ExperimentConfig()
    wrong.model.dim = 8
    begin_folder(tmp_path, wrong, describe(data), data / "lang_bpe_30")
    (tmp_path / ".tmp-1-checkpoint-1.pt").touch()  # killed while it wrote the first
    assert not check_folder(tmp_path, right, describe(data))
    (tmp_path / "checkpoint-1.pt").touch()
    with pytest.raises(UserError, match=r"model\.dim: 8 -> 256"):
        check_folder(tmp_path, right, describe(data))


def test_unlabelled_splits_cannot_come_or_go(data: Path, tmp_path: Path) -> None:
    alone, experiment = describe(data), ExperimentConfig()
    more = describe(data, unlabelled_cuts=[data / "fbank" / DEV])
    for number, (before, after) in enumerate([(alone, more), (more, alone)]):
        write_folder(tmp_path / str(number), experiment, before, data / "lang_bpe_30")
        with pytest.raises(UserError, match=r"data \(unlabelled\)"):
            check_folder(tmp_path / str(number), experiment, after)


@pytest.mark.parametrize(
    ("files", "lost"),
    [
        ([], False),
        (["epoch-1.pt"], False),  # killed before there was a checkpoint
        (["epoch-1.pt", "epoch-2.pt"], True),
        (["epoch-7.pt"], True),
        (["epoch-1.pt", "epoch-2.pt", "checkpoint-9.pt"], False),
        (["epoch-1.pt", "epoch-3.pt", "pretrained.pt"], False),
        (["pretrained.pt"], False),  # cleared to save room
        (["epoch-1.pt", "epoch-2.pt", "checkpoint-9.pt", "pretrained.pt"], False),
        (["epoch-1.pt", "epoch-2.pt", "pretrained.pt"], True),  # another would pass for the last
    ],
)
def test_epochs_are_not_trained_over_when_checkpoints_are_lost(
    data: Path, tmp_path: Path, files: list[str], lost: bool
) -> None:
    exp, experiment = tmp_path / "exp", ExperimentConfig()
    experiment.training.num_epochs = 3
    write_folder(exp, experiment, describe(data), data / "lang_bpe_30")
    (exp / "checkpoint-1.pt").unlink()
    for name in files:
        (exp / name).touch()
    if not lost:
        finished = "pretrained.pt" in files and "epoch-2.pt" not in files
        assert check_folder(exp, experiment, describe(data)) == finished
        return
    with pytest.raises(UserError, match="no checkpoint-<step>") as error:
        check_folder(exp, experiment, describe(data))
    assert "--variant" in str(error.value.remedy)


def test_a_finished_training_without_checkpoints_gets_no_longer(data: Path, tmp_path: Path) -> None:
    exp, experiment = tmp_path / "exp", ExperimentConfig()
    begin_folder(exp, experiment, describe(data), data / "lang_bpe_30")
    for name in ("epoch-1.pt", "epoch-2.pt", "pretrained.pt"):
        (exp / name).touch()
    experiment.training.num_epochs += 1
    with pytest.raises(UserError, match="2 epoch-N"):
        check_folder(exp, experiment, describe(data))


@pytest.mark.parametrize("name", ["codes", "embeddings", "layers", "hypotheses"])
def test_values_of_a_loss_that_is_off_change_nothing(data: Path, tmp_path: Path, name: str) -> None:
    before, after = ExperimentConfig(), ExperimentConfig()
    section = getattr(after.distillation, name)
    section.teacher, section.final_weight_fraction = "hf:x", 0.5
    write_folder(tmp_path / "exp", before, describe(data), data / "lang_bpe_30")
    assert not check_folder(tmp_path / "exp", after, describe(data))
    section.weight = 1.0
    with pytest.raises(UserError, match="teacher: '' -> 'hf:x'") as error:
        check_folder(tmp_path / "exp", after, describe(data))
    assert f"distillation.{name}.weight: 0.0 -> 1.0" in error.value.problem


def old_training(exp: Path, data: Path, teacher: str) -> None:
    """The folder of a training of version 0.1.0 with codes."""
    exp.mkdir()
    options = "{method: mvq, teacher: hf:x, teacher_layer: 4, layer: 2, scale: 1.0}"
    (exp / "config.yaml").write_text(f"distillation: {options}\n")
    (exp / "data.json").write_text(json.dumps({**describe(data), "teacher": teacher}))
    (exp / "teaching.json").write_text(json.dumps({"quantizer_id": "1234"}))
    (exp / "checkpoint-1.pt").touch()


def test_a_training_of_version_0_1_0_goes_on(data: Path, tmp_path: Path) -> None:
    exp, experiment = tmp_path / "exp", ExperimentConfig()
    old_training(exp, data, teacher="hf:x")
    codes = experiment.distillation.codes
    codes.weight, codes.teacher, codes.teacher_layer, codes.layer = 1.0, "hf:x", 4, [2]
    now = {**describe(data), "teachers": {"codes": "hf:x"}}
    assert not check_folder(exp, experiment, now)
    write_distillation(exp, {"codes": {"quantizer_id": "1234"}})
    write_folder(exp, experiment, now, data / "lang_bpe_30")
    assert not check_folder(exp, experiment, now)
    with pytest.raises(UserError, match=r"data \(teachers\)"):
        check_folder(exp, experiment, {**now, "teachers": {"codes": "hf:y"}})


def test_other_targets_are_refused_in_a_training_of_version_0_1_0(
    data: Path, tmp_path: Path
) -> None:
    exp, experiment = tmp_path / "exp", ExperimentConfig()
    old_training(exp, data, teacher="mvqkd:exp/big?weights=1")
    codes = experiment.distillation.codes
    codes.weight, codes.teacher, codes.teacher_layer, codes.layer = 1.0, "hf:x", 4, [2]
    with pytest.raises(UserError, match=r"data \(teachers\).*weights=1.*weights=2"):
        now = {**describe(data), "teachers": {"codes": "mvqkd:exp/big?weights=2"}}
        check_folder(exp, experiment, now)
    with pytest.raises(UserError, match="codes of quantizer 1234, these are of 5678"):
        write_distillation(exp, {"codes": {"quantizer_id": "5678"}})


def test_what_each_loss_learns_from_is_kept(tmp_path: Path) -> None:
    both = {
        "codes": {"quantizer_id": "1234", "bytes_per_hour": 8.0},
        "embeddings": {"layer": 3, "bytes_per_hour": 9.0},
    }
    write_distillation(tmp_path, {**both, "codes": {"quantizer_id": "0"}})
    write_distillation(tmp_path, both)  # there were no weights yet
    (tmp_path / "checkpoint-1.pt").touch()
    write_distillation(tmp_path, both)
    assert read_distillation(tmp_path) == both
    with pytest.raises(UserError, match="quantizer 1234, these are of 5678"):
        write_distillation(tmp_path, {**both, "codes": {"quantizer_id": "5678"}})
    assert read_distillation(tmp_path) == both


def test_the_tokens_of_a_training_are_kept_with_it(data: Path, tmp_path: Path) -> None:
    exp, lang = tmp_path / "exp", data / "lang_bpe_30"
    assert lang_name(exp) is None
    write_folder(exp, ExperimentConfig(), describe(data), lang)
    assert lang_name(exp) == "lang_bpe_30"
    for name in ("bpe.model", "tokens.txt"):
        assert (exp / name).read_bytes() == (lang / name).read_bytes()


def test_another_bpe_model_of_the_same_size_is_refused(data: Path, tmp_path: Path) -> None:
    exp, lang = tmp_path / "exp", data / "lang_bpe_30"
    check_tokens_of(exp, lang)  # weights from elsewhere
    write_folder(exp, ExperimentConfig(), describe(data), data / "lang_bpe_30")
    check_tokens_of(exp, lang)
    model = lang / "bpe.model"
    model.write_bytes(model.read_bytes() + b" ")
    with pytest.raises(UserError, match=r"another BPE model than .*lang_bpe_30"):
        check_tokens_of(exp, lang)
