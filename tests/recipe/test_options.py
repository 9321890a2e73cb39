"""Options that programs of a recipe share."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mvqkd.errors import UserError
from mvqkd.recipe.config.load import LoadedConfig
from mvqkd.recipe.config.schema import ExperimentConfig, ModelConfig
from mvqkd.recipe.options import (
    Renamed,
    add_data_options,
    add_experiment_options,
    at_least,
    experiment_inputs,
    list_option,
    require_options,
    split_patterns,
)


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    return argparse.ArgumentParser()


@pytest.mark.parametrize(("text", "words"), [("0", "--nj: 0 is less than 1"), ("two", "'two'")])
def test_a_number_that_is_too_small_is_refused_in_words(parser, capsys, text, words):
    parser.add_argument("--nj", type=at_least(1))
    assert parser.parse_args(["--nj", "1"]).nj == 1
    with pytest.raises(SystemExit):
        parser.parse_args(["--nj", text])
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "train", "dev"),
    [
        (["--train-splits", "a", "b"], ["a", "b"], []),
        (["--train-splits", "a,b c", "--dev-splits", "d-*"], ["a", "b", "c"], ["d-*"]),
        (["--train-parts", "a,b", "--dev-parts", "d"], ["a", "b"], ["d"]),
        (["--parts", "d"], [], ["d"]),
        (["--prefix", "x", "--train-splits"], [], []),
        ([], [], []),
    ],
)
def test_splits_are_given_by_role_under_new_names_and_old(parser, argv, train, dev):
    add_data_options(parser)
    options = parser.parse_args(["--data-dir", "data", *argv])
    assert split_patterns(options) == {"train": train, "dev": dev, "test": [], "unlabelled": []}


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--train-parts", "a"], "--train-parts is now --train-splits\n"),
        (["--unlabelled-parts=a"], "--unlabelled-parts is now --unlabelled-splits\n"),
        (["--parts", "a"], "--parts is now --dev-splits\n"),
        (["--prefix=x"], "--prefix is not needed any more: the data folder knows it\n"),
        (["--train-splits", "a"], ""),
    ],
)
def test_old_names_are_taken_with_a_message(parser, capsys, argv, told):
    add_data_options(parser)
    parser.parse_args(["--data-dir", "x", *argv])
    assert capsys.readouterr().err == told


def test_each_program_names_its_own_option(capsys):
    """`--parts` was another option in another program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--splits", "--parts", action=Renamed, type=list_option, nargs="+")
    assert parser.parse_args(["--parts", "a,b"]).splits == [["a", "b"]]
    assert capsys.readouterr().err == "--parts is now --splits\n"


def test_a_program_takes_an_old_name_with_a_message():
    program = (
        "import argparse\n"
        "from mvqkd.recipe.options import add_data_options, split_patterns\n"
        "from mvqkd.recipe.program import run_program\n"
        "def main():\n"
        "    parser = argparse.ArgumentParser()\n"
        "    add_data_options(parser)\n"
        "    print(split_patterns(parser.parse_args())['train'])\n"
        "run_program(main)"
    )
    options = ["--data-dir", "data", "--train-parts", "train-*"]
    ended = subprocess.run(
        [sys.executable, "-c", program, *options],
        capture_output=True,
        text=True,
        env=dict(os.environ),
        timeout=60,
        check=True,
    )
    assert ended.stdout == "['train-*']\n"
    assert ended.stderr == "--train-parts is now --train-splits\n"


def experiment_options(parser: argparse.ArgumentParser, *argv: str) -> argparse.Namespace:
    add_experiment_options(parser, required=False)
    parser.add_argument("--config", type=Path)
    return parser.parse_args(["--config", "x.yaml", *argv])


def test_an_experiment_comes_with_its_data(parser):
    options = experiment_options(
        parser, "--data-dir", "data", "--exp-root", "exp", "--dev-splits", "d"
    )
    loaded = LoadedConfig(ExperimentConfig(), {})
    inputs = experiment_inputs(loaded, options)
    assert inputs.loaded is loaded and inputs.config is loaded.config
    assert (inputs.data.root, inputs.experiments) == (Path("data"), Path("exp"))
    assert inputs.patterns["dev"] == ["d"]
    wrong = LoadedConfig(ExperimentConfig(model=ModelConfig(chunk_size=[4])), {})
    with pytest.raises(UserError, match=r"model\.causal is not set"):
        experiment_inputs(wrong, options)


@pytest.mark.parametrize(("given", "missing"), [("--data-dir", "exp-root"), ("--exp-root", "data")])
def test_an_experiment_without_its_folders_is_refused(parser, given, missing):
    options = experiment_options(parser, given, "x")
    with pytest.raises(UserError, match=f"--{missing}.* is missing"):
        experiment_inputs(LoadedConfig(ExperimentConfig(), {}), options)


def test_options_that_are_missing_without_an_experiment_are_named(parser, capsys):
    parser.add_argument("--cuts")
    parser.add_argument("--exp-dir")
    require_options(parser, parser.parse_args(["--cuts", "a", "--exp-dir", "b"]), "cuts", "exp_dir")
    with pytest.raises(SystemExit):
        require_options(parser, parser.parse_args(["--cuts", "a"]), "cuts", "exp_dir")
    assert "without --config, --exp-dir must be given" in capsys.readouterr().err
