"""Configurations from files: which value wins, what a file may not have, and on which line."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvqkd.errors import UserError
from mvqkd.recipe.config.load import COMMAND_LINE, differences, load_config, save_config
from mvqkd.recipe.config.schema import (
    CodesConfig,
    DistillationConfig,
    ExperimentConfig,
    ModelConfig,
    QuantizerConfig,
)


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_no_file_is_the_defaults():
    assert load_config(None).config == ExperimentConfig()


@pytest.mark.parametrize("text", ["", "# nothing\n"])
def test_an_empty_file_is_no_experiment(tmp_path, text):
    path = write(tmp_path, "empty.yaml", text)
    with pytest.raises(UserError, match=r"has no values|is empty") as error:
        load_config(path)
    assert str(path) in error.value.problem


def test_a_saved_experiment_reads_back(tmp_path):
    experiment = ExperimentConfig(
        description="näher: 1 x 2",
        model=ModelConfig(causal=True, chunk_size=[4, -1]),
        distillation=DistillationConfig(
            codes=CodesConfig(weight=0.1, teacher="hf:x?y=1", quantizer=QuantizerConfig(file="q"))
        ),
    )
    save_config(experiment, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml").config == experiment


def test_differences_name_each_field():
    other = ExperimentConfig(model=ModelConfig(dim=144))
    other.distillation.codes.quantizer.num_codebooks = 4
    assert differences(ExperimentConfig(), ExperimentConfig()) == []
    assert differences(ExperimentConfig(), other) == [
        "model.dim: 256 -> 144",
        "distillation.codes.quantizer.num_codebooks: 8 -> 4",
    ]


def test_a_file_is_based_on_another_and_the_command_line_on_both(tmp_path):
    write(tmp_path, "big.yaml", "model:\n  dim: 512\n  num_layers: 12\n  num_heads: 8\n")
    path = write(tmp_path, "small.yaml", "base: big.yaml\nmodel: {dim: 144, num_layers: 4}\n")
    loaded = load_config(path, [("model.num_layers", "6")])
    assert loaded.config.model == ModelConfig(dim=144, num_layers=6, num_heads=8)
    assert loaded.origins == {
        "model.dim": f"{path}, line 2",
        "model.num_layers": COMMAND_LINE,
        "model.num_heads": f"{tmp_path / 'big.yaml'}, line 4",
    }


def test_of_two_values_on_the_command_line_the_later_wins():
    loaded = load_config(None, [("model.dim", "64"), ("model.dim", "32")])
    assert loaded.config.model.dim == 32


def test_a_base_may_have_a_base_in_another_folder(tmp_path):
    write(tmp_path, "all/first.yaml", "description: first\nmodel: {dim: 32, num_layers: 1}\n")
    write(tmp_path, "all/second.yaml", "model: {num_layers: 2}\nbase: first.yaml\n")
    third = write(tmp_path, "mine/third.yaml", "base: ../all/second.yaml\nmodel: {num_heads: 2}\n")
    config = load_config(third).config
    assert config.description == "first"
    assert config.model == ModelConfig(dim=32, num_layers=2, num_heads=2)


def test_of_several_bases_the_later_wins(tmp_path):
    write(tmp_path, "root.yaml", "model: {dim: 16, num_layers: 1, num_heads: 2}\n")
    write(tmp_path, "one.yaml", "base: root.yaml\nmodel: {dim: 32}\nloss: {ctc_scale: 0.5}\n")
    write(tmp_path, "two.yaml", "base: root.yaml\nmodel: {num_layers: 3}\n")
    path = write(tmp_path, "x.yaml", "base: [one.yaml, two.yaml]\nmodel: {num_heads: 4}\n")
    config = load_config(path).config
    # `root.yaml` comes before each of the two: its width wins over that of the first.
    assert config.model == ModelConfig(dim=16, num_layers=3, num_heads=4)
    assert config.loss.ctc_scale == 0.5
    with pytest.raises(UserError, match="base is the name of a file, or a list"):
        load_config(write(tmp_path, "y.yaml", "base: {one.yaml: 1}\n"))
    with pytest.raises(UserError, match="base is the name of a file, or a list"):
        load_config(write(tmp_path, "z.yaml", "base: []\n"))


def test_a_list_replaces_the_list_of_the_base(tmp_path):
    write(tmp_path, "base.yaml", "model: {chunk_size: [16, 8, -1]}\ndata: {musan_snr: [5, 15]}\n")
    path = write(tmp_path, "x.yaml", "base: base.yaml\nmodel:\n  chunk_size:\n  - 4\n")
    config = load_config(path).config
    assert config.model.chunk_size == [4]
    assert config.data.musan_snr == [5.0, 15.0]


@pytest.mark.parametrize(
    "bases",
    [
        {"a.yaml": "a.yaml"},
        {"a.yaml": "b.yaml", "b.yaml": "c.yaml", "c.yaml": "b.yaml"},
        {"a.yaml": "../conf/a.yaml"},
    ],
)
def test_bases_in_a_circle_are_refused(tmp_path, bases):
    for name, base in bases.items():
        write(tmp_path, f"conf/{name}", f"base: {base}\n")
    with pytest.raises(UserError, match="its bases lead back to") as error:
        load_config(tmp_path / "conf/a.yaml")
    assert str(tmp_path / "conf/a.yaml") in error.value.problem


def test_a_missing_base_is_named_with_the_file_and_line_that_want_it(tmp_path):
    write(tmp_path, "middle.yaml", "description: x\n\nbase: none.yaml\n")
    path = write(tmp_path, "top.yaml", "base: middle.yaml\n")
    with pytest.raises(UserError, match=r"the base .*/none\.yaml is missing") as error:
        load_config(path)
    assert error.value.problem.startswith(f"{tmp_path / 'middle.yaml'}, line 3: ")


def test_a_missing_file_is_reported(tmp_path):
    with pytest.raises(UserError, match=r"none\.yaml is missing"):
        load_config(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("model:\n  dims: 3\n", 2, "no configuration value model.dims; did you mean model.dim"),
        ("model:\n  dim: wide\n", 2, "model.dim is 'wide'; allowed: a whole number"),
        ("model:\n  dim: 0\n", 2, "model.dim is '0'; allowed: 1 or more"),
        ("model: {dim: [1, 2]}\n", 1, ", not a list"),
        ("training:\n  precision: float8\n", 2, "allowed: float32, bfloat16, float16"),
        ("modle:\n  dim: 3\n", 2, "no configuration value modle.dim"),
        ("model:\n  num_layers: 3\n  dim:\n", 3, "model.dim has no value"),
        ("model:\n  chunk_size: many\n", 2, "a whole number"),
        ("model:\n  chunk_size: [[1], 2]\n", 2, "a list of lists"),
        ("\n\nmodel: 3\n", 3, "no configuration value model"),
        ("model:\n  dim: 3\n  dim: 3\n", 3, "model.dim is there twice"),
        (
            "model:\n  dim: 3\nloss:\n  backend: k2\nmodel:\n  dim: 3\n",
            5,
            "model is there twice",
        ),
        ("base: x.yaml\nbase: x.yaml\n", 2, "base is there twice"),
        ("base: [[x.yaml]]\n", 1, "base is the name of a file, or a list"),
        ("base:\n", 1, "base is the name of a file, or a list"),
        ("- model\n", 1, "the file is no section"),
        ("null\n", 1, "the file is no section"),
        ("model:\n\tdim: 3\n", 2, "no YAML"),
        ("training:\n  seed: 99999999999999999999\n", 2, "at most 63 bits"),
        ("data:\n  num_workers: 5000\n", 2, "128 or less"),
        ("model:\n  ? [dim]\n  : 3\n", 2, "a name must be a word"),
        ("model: {dim: 3\ndata: 3\n", 2, "no YAML"),
        ("distillation:\n  codes:\n    quantizer:\n      size: 3\n", 4, "quantizer.size"),
    ],
)
def test_what_is_wrong_in_a_file_is_reported_with_its_line(tmp_path, text, line, message):
    path = write(tmp_path, "bad.yaml", text)
    with pytest.raises(UserError) as error:
        load_config(path)
    assert error.value.problem.startswith(f"{path}, line {line}: ")
    assert message in error.value.problem


def test_what_is_wrong_in_a_base_is_reported_with_the_line_of_the_base(tmp_path):
    base = write(tmp_path, "base.yaml", "model:\n  dim: wide\n")
    path = write(tmp_path, "top.yaml", "base: base.yaml\nmodel:\n\n\n  dim: 64\n")
    with pytest.raises(UserError) as error:
        load_config(path)
    assert error.value.problem.startswith(f"{base}, line 2: model.dim is 'wide'")


@pytest.mark.parametrize("content", [b"\xff\xfe\xfd", b"model:\n  dim: 3\x00\x01"])
def test_a_file_that_is_no_text_is_named(tmp_path, content):
    path = tmp_path / "binary.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"no YAML|no text") as error:
        load_config(path)
    assert str(path) in error.value.problem


def test_where_a_value_came_from_is_reported_of_those_that_were_given(tmp_path):
    path = write(tmp_path, "x.yaml", "model:\n  dim: 64\n")
    loaded = load_config(path, [("model.num_heads", "2")])
    assert loaded.where("model.num_layers") == ""
    assert loaded.where("model.dim", "model.num_layers", "model.num_heads") == (
        f" (model.dim: {path}, line 2; model.num_heads: the command line)"
    )
