"""What stage 12 exports: settings, splits and tokens of a trained experiment."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvqkd.data.folder import DataFolder
from mvqkd.errors import UserError
from mvqkd.recipe.config.load import save_config
from mvqkd.recipe.config.schema import DecodingConfig, ExperimentConfig, ExportConfig
from mvqkd.recipe.stages.export_options import export_inputs

SPLITS = {"train": ["train-a"], "dev": ["dev-a", "dev-b"], "test": ["test-a", "test-b"]}


@pytest.fixture
def data(tmp_path: Path) -> DataFolder:
    data = DataFolder(tmp_path / "data")
    data.record_splits(tmp_path / "corpus", "x", SPLITS)
    data.record_vocab_size(30)
    data.fbank.mkdir()
    for names in SPLITS.values():
        for name in names:
            data.cuts(name).write_bytes(b"")
    return data


@pytest.fixture
def exp(tmp_path: Path) -> Path:
    folder = tmp_path / "exp"
    folder.mkdir()
    experiment = ExperimentConfig(
        decoding=DecodingConfig(avg=3), export=ExportConfig(license="apache-2.0")
    )
    save_config(experiment, folder / "config.yaml")
    return folder


def test_settings_are_the_experiment_s_unless_others_are_given(exp: Path, data: DataFolder) -> None:
    overrides = [("export.precisions", "float16"), ("decoding.epoch", "7"), ("model.dim", "256")]
    inputs = export_inputs(exp, data.root, overrides)
    assert inputs.export == ExportConfig(license="apache-2.0", precisions=["float16"])
    assert inputs.decoding == DecodingConfig(avg=3, epoch=7)
    assert inputs.lang_dir == data.lang(30)
    assert (inputs.int8_split, inputs.int8_cuts) == ("dev-a", data.cuts("dev-a"))
    assert inputs.test_cuts == data.cuts("test-a")
    with pytest.raises(UserError, match=r"model\.dim: 256 -> 8"):
        export_inputs(exp, data.root, [("model.dim", "8")])


def test_another_split_is_measured_on(exp: Path, data: DataFolder) -> None:
    inputs = export_inputs(exp, data.root, [("export.int8_split", "dev-b")])
    assert inputs.int8_cuts == data.cuts("dev-b")
    with pytest.raises(UserError, match=r"dev-\* is a pattern, of dev-a, dev-b"):
        export_inputs(exp, data.root, [("export.int8_split", "dev-*")])
    data.cuts("dev-b").unlink()
    with pytest.raises(UserError, match=r"dev-b.*is missing") as error:
        export_inputs(exp, data.root, [("export.int8_split", "dev-b")])
    assert error.value.step == "features"


def test_without_a_test_split_the_utterances_are_of_dev(exp: Path, data: DataFolder) -> None:
    data.record_splits(data.root / "corpus", "x", {**SPLITS, "test": []})
    assert export_inputs(exp, data.root, []).test_cuts == data.cuts("dev-a")
