"""What the programs of stages 0 to 3 tell people."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(program: str, *options: object) -> int:
    """Exit status of a program, run in this process."""
    from mvqkd.experiment.program import run_program

    spec = importlib.util.spec_from_file_location(program, ROOT / "local" / f"{program}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    arguments, sys.argv = sys.argv, [program, *map(str, options)]
    try:
        run_program(module.main)
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = arguments
    raise AssertionError("run_program returned")


def test_all_stages(corpus: Path, tmp_path: Path) -> None:
    common = ("--data-dir", tmp_path, "--prefix", "p")
    asked = ("--train-parts", "train-*", "--dev-parts", "dev-*", "--test-parts", "x-*")
    assert run("prepare_manifests", *common, "--corpus-dir", corpus, *asked) == 0
    parts = ("--train-parts", "train-*", "--parts", "dev-*", "test-*")
    assert run("compute_fbank", *common, "--parts", "train-*,dev-*", "--on-the-fly") == 0
    assert run("prepare_lang", *common, *parts[:3], "dev-*", "--vocab-size", 30) == 0
    names = {path.name for path in (tmp_path / "lang_bpe_30").iterdir()}
    assert {"bpe.model", "tokens.txt", "excluded_dev-a.txt", "excluded_train-tiny.txt"} <= names


def test_prepared_parts_are_listed_for_the_shell(
    corpus: Path, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("list_parts", "--data-dir", prepared, "--corpus-dir", corpus) == 0
    assert capsys.readouterr().out.splitlines() == [
        "train_parts=train-tiny",
        "dev_parts=dev-a",
        "test_parts=''",
        "unlabelled_parts=''",
    ]
    # An empty option, as run.sh gives it, is none.
    assert run("list_parts", "--data-dir", prepared, "--train-parts", "", "--dev-parts", "d*") == 0
    assert "train_parts=train-tiny\ndev_parts=dev-a" in capsys.readouterr().out
    assert run("list_parts", "--data-dir", prepared, "--test-parts", "*") == 1
    assert "a training part and a test part" in capsys.readouterr().err
    assert run("list_parts", "--data-dir", prepared, "--corpus-dir", tmp_path) == 1
    assert "another corpus" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("program", "options", "message"),
    [
        (
            "prepare_manifests",
            ["--corpus-dir", "/nowhere", "--train-parts", "a"],
            "the corpus folder /nowhere does not exist",
        ),
        ("compute_fbank", ["--parts", "train-*"], "./run.sh --recipe RECIPE --stage 1"),
        ("prepare_lang", ["--train-parts", "train-*"], "./run.sh --recipe RECIPE --stage 1"),
        (
            "prepare_lang",
            ["--data-dir", "{prepared}", "--prefix", "tiny", "--train-parts", "x"],
            "name one of: dev-a, train-tiny",
        ),
        (
            "prepare_lang",
            ["--data-dir", "{manifests_only}", "--prefix", "tiny", "--train-parts", "train-*"],
            "train-tiny.jsonl.gz is missing\n  remedy: ./run.sh --recipe RECIPE --stage 2",
        ),
        (
            "prepare_lang",
            [
                *("--data-dir", "{prepared}", "--prefix", "tiny"),
                *("--train-parts", "train-*", "--vocab-size", "9999"),
            ],
            "remedy: --vocab-size",
        ),
    ],
)
def test_errors_are_two_lines(
    program: str,
    options: list[str],
    message: str,
    prepared: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "manifests").symlink_to(prepared / "manifests")
    options = [o.format(prepared=prepared, manifests_only=tmp_path) for o in options]
    assert run(program, "--data-dir", tmp_path / "none", *options) == 1
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed
    assert printed.startswith("error: ")


def test_download_without_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = "http://localhost:9"  # the discard port: nothing listens
    options = ("--corpus", "mini_librispeech", "--out", tmp_path, "--base-url", url)
    assert run("download_corpus", *options, "--parts", "dev-* test-*") == 1
    assert "--base-url" in capsys.readouterr().err
    assert run("download_corpus", "--corpus", "musan", *options[2:]) == 1
    assert "--musan-dir, or go without: --musan no" in capsys.readouterr().err
    assert run("download_corpus", *options, "--parts", "dev-clean") == 1
    assert "name one of: dev-clean-2, train-clean-5" in capsys.readouterr().err
