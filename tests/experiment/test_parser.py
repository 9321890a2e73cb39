"""Experiments from YAML and command lines."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import pytest

from mvqkd.errors import UserError
from mvqkd.experiment.check import check_training
from mvqkd.experiment.config import ExperimentConfig, ModelConfig
from mvqkd.experiment.parser import (
    ExperimentParser,
    differences,
    load_experiment,
    save_experiment,
)

ROOT = Path(__file__).resolve().parents[2]


def _load_program(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "local" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_later_values_win(tmp_path):
    config = tmp_path / "small.yaml"
    config.write_text("model:\n  dim: 144\n  num_layers: 4\n")
    parser = ExperimentParser("test")
    experiment, _ = parser.parse(["--config", str(config), "--model.num_layers", "6"])
    assert experiment.model == ModelConfig(dim=144, num_layers=6)


def test_saved_experiment_reads_back(tmp_path):
    experiment = ExperimentConfig(description="näher", model=ModelConfig(chunk_size=[4, -1]))
    save_experiment(experiment, tmp_path / "config.yaml")
    assert load_experiment(tmp_path / "config.yaml") == experiment


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("model:\n  dims: 3\n", "dims"),
        ("model:\n  dim: wide\n", "model.dim"),
        ("training:\n  precision: float8\n", "precision"),
        ("modle:\n  dim: 3\n", "modle"),
    ],
)
def test_bad_file_is_named_with_its_key(tmp_path, text, named):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=named) as error:
        load_experiment(path)
    assert str(path) in str(error.value)


def test_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"none\.yaml is missing"):
        load_experiment(tmp_path / "none.yaml")


def test_differences_name_each_field():
    other = ExperimentConfig(model=ModelConfig(dim=144))
    assert differences(ExperimentConfig(), ExperimentConfig()) == []
    assert differences(ExperimentConfig(), other) == ["model.dim: 256 -> 144"]


def test_option_list_agrees_with_the_dataclasses():
    """The list that run.sh checks names against, read from the source, is what the parser takes."""
    expected = {
        f"{section.name}.{field.name}"
        for section in dataclasses.fields(ExperimentConfig)
        if dataclasses.is_dataclass(value := getattr(ExperimentConfig(), section.name))
        for field in dataclasses.fields(value)
    }
    listed = _load_program("list_options").read_fields()
    assert set(listed) == expected
    assert all(text for _, text in listed.values()), "a field without a docstring"


@pytest.mark.parametrize("path", sorted((ROOT / "egs").glob("*/conf/*.yaml")), ids=str)
def test_every_experiment_of_every_recipe_is_valid(path):
    experiment = load_experiment(path)
    assert experiment.description, f"{path} has no description for the results table"
    assert experiment.model.dim % experiment.model.num_heads == 0
    check_training(experiment)
