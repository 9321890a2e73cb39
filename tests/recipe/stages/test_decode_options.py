"""What stage 10 decodes: settings, splits and tokens of a trained experiment."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvqkd.data.folder import DataFolder
from mvqkd.data.prepare.preparation_report import PreparationReport
from mvqkd.errors import UserError
from mvqkd.recipe.config.load import save_config
from mvqkd.recipe.config.schema import DataConfig, DecodingConfig, ExperimentConfig
from mvqkd.recipe.stages.decode_options import complete_names, decoding_inputs, left_out

SPLITS = {"train": ["train-a"], "dev": ["dev-a"], "test": ["test-a", "test-b"]}


@pytest.fixture
def data(tmp_path: Path) -> DataFolder:
    data = DataFolder(tmp_path / "data")
    data.record_splits(tmp_path / "corpus", "x", SPLITS)
    data.record_vocab_size(30)
    return data


@pytest.fixture
def exp(tmp_path: Path) -> Path:
    folder = tmp_path / "exp"
    folder.mkdir()
    save_config(ExperimentConfig(decoding=DecodingConfig(avg=3)), folder / "config.yaml")
    return folder


def test_the_dev_and_test_splits_are_decoded_as_the_experiment_says(exp, data):
    decoding, sets, lang = decoding_inputs(exp, data.root, [("decoding.beam_size", "8")])
    assert decoding == DecodingConfig(avg=3, beam_size=8)
    assert sets == {name: data.cuts(name) for name in ("dev-a", "test-a", "test-b")}
    assert lang == data.lang(30)


def test_other_splits_are_decoded_where_they_are_named(exp, data):
    _, sets, _ = decoding_inputs(exp, data.root, [], patterns=["test-*", "train-a"])
    assert list(sets) == ["test-a", "test-b", "train-a"]
    with pytest.raises(UserError, match="no split none"):
        decoding_inputs(exp, data.root, [], patterns=["none"])


def test_the_tokens_are_those_of_the_training_unless_others_are_named(exp, data):
    (exp / "data.json").write_text('{"lang": "lang_bpe_50"}')
    assert decoding_inputs(exp, data.root, [])[2] == data.lang(50)
    assert decoding_inputs(exp, data.root, [], vocab_size=40)[2] == data.lang(40)
    few = ExperimentConfig(data=DataConfig(labelled_hours=2))
    save_config(few, exp / "config.yaml")
    assert decoding_inputs(exp, data.root, [])[2] == data.lang(50)
    assert decoding_inputs(exp, data.root, [], vocab_size=40)[2] == data.lang(40, 2.0)


def test_what_was_trained_cannot_be_changed(exp, data):
    with pytest.raises(UserError, match=r"decoding cannot change model\.dim: 256 -> 8"):
        decoding_inputs(exp, data.root, [("decoding.avg", "1"), ("model.dim", "8")])


@pytest.mark.parametrize(
    ("argv", "completed"),
    [
        (["--epoch", "30"], ["--decoding.epoch", "30"]),
        (["--beam-size=8"], ["--decoding.beam_size=8"]),
        (
            ["--method", "greedy_search,modified_beam_search"],
            ["--decoding.methods", '["greedy_search", "modified_beam_search"]'],
        ),
        (["--methods=greedy_search"], ["--decoding.methods", '["greedy_search"]']),
        (["--exp-dir", "x", "--decoding.avg", "2"], ["--exp-dir", "x", "--decoding.avg", "2"]),
    ],
)
def test_names_of_settings_need_no_section(argv, completed):
    assert complete_names(argv) == completed


def test_what_the_test_sets_lack_is_counted_by_reason(data):
    report = PreparationReport("test-a")
    for number in range(3):
        report.leave_out(f"long-{number}", "too long", "41.000 s")
    report.leave_out("silent", "transcript empty")
    report.write(data.report("test-a"), max_seconds=40.0)
    unreadable = PreparationReport("test-a")
    unreadable.leave_out("gone", "audio unreadable")
    unreadable.write(data.fbank / "x_cuts_test-a.report.json")
    assert left_out(data.root, ["test-a", "test-b"]) == {
        "test-a": {"longer than 40 s": 3, "transcript empty": 1, "audio unreadable": 1},
        "test-b": {},
    }
