"""Experiments from the command line of a program."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvqkd.errors import UserError
from mvqkd.recipe.config.command_line import ExperimentParser
from mvqkd.recipe.config.schema import ModelConfig


@pytest.fixture
def parser() -> ExperimentParser:
    parser = ExperimentParser("test")
    parser.options.add_argument("--data-dir", type=Path)
    parser.options.add_argument("--force", action="store_true")
    return parser


def test_values_override_those_of_the_file_beside_options_of_the_program(parser, tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text("model:\n  dim: 144\n  num_layers: 4\n")
    argv = ["--config", str(path), "--model.num_layers", "6", "--data-dir", "data", "--force"]
    loaded, options = parser.parse(argv)
    assert loaded.config.model == ModelConfig(dim=144, num_layers=6)
    assert options.data_dir == Path("data") and options.force


def test_values_are_written_with_an_equals_sign_or_dashes_too(parser):
    _, overrides = parser.split(
        [
            *("--model.num-layers=3", "--decoding.blank_penalty", "-1.5", "--force"),
            *("--distillation.codes.teacher=hf:x?a=1", "--training.keep-epochs", "-1"),
        ]
    )
    assert overrides == [
        ("model.num_layers", "3"),
        ("decoding.blank_penalty", "-1.5"),
        ("distillation.codes.teacher", "hf:x?a=1"),
        ("training.keep_epochs", "-1"),
    ]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--model.dim"], "--model.dim needs a value"),
        (["--fast", "1"], "unrecognized argument --fast"),
        (["--model.dim", "3", "4"], "unrecognized argument 4"),
    ],
)
def test_arguments_that_nobody_takes_end_the_program(parser, capsys, argv, words):
    with pytest.raises(SystemExit) as end:
        parser.parse(argv)
    assert end.value.code == 2
    assert words in capsys.readouterr().err


def test_a_name_that_is_no_field_is_reported(parser):
    with pytest.raises(UserError, match=r"the command line: .*model\.dims; did you mean"):
        parser.parse(["--model.dims", "3"])


def test_a_program_may_take_several_experiments():
    parser = ExperimentParser("test", many=True)
    options, overrides = parser.split(["--config", "a.yaml", "b.yaml", "--model.dim", "64"])
    assert options.config == [Path("a.yaml"), Path("b.yaml")]
    assert overrides == [("model.dim", "64")]
