"""Fields of a configuration: each is listed and explained, and takes nothing but its values."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from typing import Any, get_args

import pytest

from mvqkd.decoding import METHODS
from mvqkd.errors import UserError
from mvqkd.recipe.config.command_line import ExperimentParser
from mvqkd.recipe.config.fields import all_fields, build, find_field, flatten
from mvqkd.recipe.config.load import load_config
from mvqkd.recipe.config.schema import ExperimentConfig, Method
from tests.recipe.config.options import LIST_OPTIONS, ROOT, list_options

OUT_OF_RANGE = [
    ("training.save_interval", "0", "1 or more"),
    ("training.log_interval", "0", "1 or more"),
    ("data.batch_tokens", "-1", "0 or more"),
    ("training.average_period", "0", "1 or more"),
    ("training.keep_epochs", "0", "-1, or 1 or more"),
    ("training.keep_checkpoints", "0", "-1, or 1 or more"),
    ("model.num_heads", "0", "1 or more"),
    ("model.dropout", "1", "0 or more and less than 1"),
    ("model.chunk_size", "[16, 0]", "-1, or 1 or more"),
    ("loss.prune_range", "1", "2 or more"),
    ("loss.lm_scale", "2", "0 or more and 1 or less"),
    ("optimizer.learning_rate", "0", "more than 0"),
    ("optimizer.betas", "[0.9]", "2 numbers, each 0 or more and less than 1"),
    ("data.time_mask_size", "0", "1 or more"),
    ("distillation.codes.weight", "-1", "0 or more"),
    ("distillation.codes.quantizer.num_codebooks", "64", "1 or more and 32 or less"),
    ("distillation.embeddings.target_delay", "-1", "0 or more"),
    ("data.musan_snr", "[5]", "2 numbers, each any number"),
    ("decoding.chunk_size", "-1", "0 or more"),
    ("decoding.avg", "0", "1 or more"),
]
OF_ANOTHER_KIND = [
    ("training.save_interval", "often", "a whole number"),
    ("training.save_interval", "1.5", "a whole number"),
    ("optimizer.learning_rate", "nan", "a finite number"),
    ("data.step_duration", "inf", "a finite number"),
    ("optimizer.betas", "[0.9, high]", "a number"),
    ("training.precision", "float8", "float32, bfloat16, float16"),
    ("decoding.methods", '["greedy_search", "fast"]', "greedy_search, modified_beam_search"),
    ("model.causal", "maybe", "true, false"),
    ("model.chunk_size", "many", "a whole number"),
    ("distillation.embeddings.distance", "mvq", "l1, l2, cosine, kld"),
    ("distillation.embeddings.source", "teacher", "embeddings, codes, online"),
]
GOOD = [
    ("training.keep_epochs", "-1", -1),
    ("optimizer.learning_rate", "1e-3", 0.001),
    ("optimizer.betas", "[0.9,0.95]", [0.9, 0.95]),
    ("model.chunk_size", "16", [16]),
    ("model.chunk_size", "[16, -1]", [16, -1]),
    ("model.chunk_size", "[]", []),
    ("decoding.chunk_size", "4,8", [4, 8]),
    ("decoding.chunk_size", "0", [0]),  # of earlier versions, which had one number
    ("model.causal", "true", True),
    ("model.causal", "No", False),
    ("decoding.methods", '["greedy_search"]', ["greedy_search"]),
    ("training.precision", "bfloat16", "bfloat16"),
    ("distillation.codes.teacher", "hf:x?y=1", "hf:x?y=1"),
    ("distillation.codes.quantizer.num_codebooks", "4", 4),
]


def as_yaml(name: str, text: str) -> str:
    """A file with one value."""
    *sections, field = name.split(".")
    lines = [f"{'  ' * depth}{section}:" for depth, section in enumerate(sections)]
    return "\n".join([*lines, f"{'  ' * len(sections)}{field}: {text}\n"])


@pytest.mark.parametrize(("name", "text", "allowed"), [*OUT_OF_RANGE, *OF_ANOTHER_KIND])
def test_a_wrong_value_is_refused_wherever_it_is_read(tmp_path, capsys, name, text, allowed):
    with pytest.raises(UserError, match=f"{name} is .*; allowed: ") as error:
        ExperimentParser("test").parse([f"--{name}", text])
    assert allowed in error.value.problem and "the command line" in error.value.problem
    path = tmp_path / "experiment.yaml"
    path.write_text(as_yaml(name, text))
    with pytest.raises(UserError, match=f"{name} is .*; allowed: ") as error:
        load_config(path)
    assert allowed in error.value.problem
    assert f"{path}, line {name.count('.') + 1}" in error.value.problem
    assert list_options("--check", f"--{name}", text) == 2
    refusal = capsys.readouterr().err
    assert f"{name} is {text!r}; allowed: " in refusal and allowed in refusal


@pytest.mark.parametrize(("name", "text", "value"), GOOD)
def test_a_good_value_is_read_alike_everywhere(tmp_path, capsys, name, text, value):
    given, _ = ExperimentParser("test").parse([f"--{name}", text])
    path = tmp_path / "experiment.yaml"
    path.write_text(as_yaml(name, text))
    for loaded in (given, load_config(path)):
        assert flatten(loaded.config) == {**flatten(ExperimentConfig()), name: value}
    assert list_options("--check", f"--{name}", text) == 0
    assert capsys.readouterr().err == ""


def test_a_name_that_is_no_field_is_reported_with_those_that_are_near(capsys):
    with pytest.raises(KeyError, match=r"did you mean model\.num_layers"):
        find_field("model.num_layer")
    assert list_options("--check", "--model.dim", "64", "--model.num_layer", "4") == 2
    refusal = capsys.readouterr().err
    assert "model.num_layer; did you mean model.num_layers" in refusal
    assert "./run.sh --help-config" in refusal


def test_options_of_an_earlier_version_are_not_refused(capsys):
    assert list_options("--check", "--distillation.method", "l2", "--distillation.scale", "3") == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "text", "status", "words"),
    [
        ("training.save_interval", "0", 2, "training.save_interval is '0'; allowed: 1 or more\n"),
        ("training.save_interval", "1", 0, ""),
    ],
)
def test_options_are_checked_without_any_package(name, text, status, words):
    command = [sys.executable, "-S", str(LIST_OPTIONS), "--check", f"--{name}", text]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert ended.returncode == status
    assert words in ended.stderr and bool(words) == bool(ended.stderr)


def names_of(config: Any, prefix: str = "") -> list[str]:
    """Of all fields, by looking into the dataclasses."""
    names = []
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), f"{prefix}{field.name}"
        names += names_of(value, f"{name}.") if dataclasses.is_dataclass(value) else [name]
    return names


def test_every_option_is_listed_with_its_default_and_what_it_means(capsys):
    assert list_options() == 0
    printed = capsys.readouterr().out
    listed = re.findall(r"^  --(\S+) \(default .*\)\n      (\S.*)$", printed, re.MULTILINE)
    # The description of an experiment stands in its file alone.
    options = [name for name in names_of(ExperimentConfig()) if "." in name]
    assert sorted(name for name, _ in listed) == sorted(options)  # by sections
    assert "--model.num_layers (default 12)" in printed
    assert "--distillation.codes.teacher (default '')" in printed


def test_every_field_has_help_and_its_default_is_allowed():
    assert list(all_fields()) == names_of(ExperimentConfig())
    for field in all_fields().values():
        assert field.help, f"{field.name} has no docstring"
        field.check(field.default)


def test_values_of_a_configuration_build_it_again():
    config = ExperimentConfig(description="x")
    config.distillation.embeddings.quantizer.num_codebooks = 3
    assert build(flatten(config)) == config
    assert build({}) == ExperimentConfig()


def test_methods_of_decoding_are_those_of_the_library():
    assert get_args(Method) == METHODS
