"""What the programs of stages 0 to 3 tell people."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mvqkd.data.folder import DataFolder
from mvqkd.data.loading.limits import BatchLimits
from mvqkd.data.loading.pool import open_pool
from mvqkd.data.loading.tokenizer import Tokenizer
from mvqkd.storage.jsonl import read_items, write_items

ROOT = Path(__file__).resolve().parents[2]


def run(program: str, *options: object) -> int:
    """Exit status of a program, run in this process."""
    from mvqkd.recipe.program import run_program

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


def test_all_stages(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ("--data-dir", tmp_path)
    asked = ("--train-splits", "train-*", "--dev-splits", "dev-*", "--test-splits", "x-*")
    assert run("prepare_manifests", *common, "--prefix", "p", "--corpus-dir", corpus, *asked) == 0
    assert run("compute_fbank", *common, "--on-the-fly") == 0
    names = {path.name for path in (tmp_path / "fbank").glob("*.jsonl.gz")}
    assert names == {"p_cuts_train-tiny.jsonl.gz", "p_cuts_dev-a.jsonl.gz"}
    assert run("prepare_lang", *common, "--vocab-size", 30) == 0
    names = {path.name for path in (tmp_path / "lang_bpe_30").iterdir()}
    assert {"bpe.model", "tokens.txt", "excluded_dev-a.txt", "excluded_train-tiny.txt"} <= names
    assert DataFolder(tmp_path).vocab_size == 30
    assert "is now" not in capsys.readouterr().err


def test_tokens_know_the_transcripts_that_their_experiments_know(
    prepared: Path, tmp_path: Path
) -> None:
    data = DataFolder(tmp_path / "data")
    shutil.copytree(prepared, data.root)
    cuts = list(read_items(data.cuts("train-tiny")))
    hours = sum(cut["duration"] for cut in cuts if "_sp" not in cut["id"]) / 2 / 3600
    everything, few = tmp_path / "all.yaml", tmp_path / "few.yaml"
    everything.write_text("description: all transcripts\n")
    few.write_text(f"data: {{labelled_hours: {hours}}}\n")
    pool = open_pool(
        [data.cuts("train-tiny")],
        data.lang(30),
        BatchLimits(100.0, 1000),
        labelled_hours=hours,
    )
    known = {pool.indexes[0].ids[number].decode() for number in pool.labelled.tolist()}
    for cut in cuts:  # a letter of each kind that the corpus does not have
        letter = "J" if cut["id"] in known else "Q"
        cut["supervisions"][0]["text"] += f" {letter}"
    write_items(data.cuts("train-tiny"), cuts)
    spoken = data.manifest("supervisions", "train-tiny")
    texts = {cut["id"]: cut["supervisions"][0]["text"] for cut in cuts}
    write_items(spoken, [item | {"text": texts[item["id"]]} for item in read_items(spoken)])
    options = ("--data-dir", data.root, "--vocab-size", 30, "--config", everything, few)
    assert run("prepare_lang", *options) == 0
    letters = {
        hours: set(Tokenizer.load(data.lang(30, hours)).tokens) & {"J", "▁J", "Q", "▁Q"}
        for hours in (0.0, hours)
    }
    assert {token.strip("▁") for token in letters[0.0]} == {"J", "Q"}
    assert {token.strip("▁") for token in letters[hours]} == {"J"}
    assert (data.lang(30, hours) / "excluded_dev-a.txt").is_file()
    # An override is a choice of its own.
    options = (*options[:4], "--config", few, "--data.labelled_hours", hours / 2)
    assert run("prepare_lang", *options) == 0
    assert (data.lang(30, hours / 2) / "bpe.model").is_file()


def test_old_names_of_options_are_taken_with_a_message(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("--data-dir", tmp_path)
    asked = ("--train-parts", "*tiny", "--dev-parts=dev-*", "--unlabelled-parts", "")
    assert run("prepare_manifests", *common, "--corpus-dir", corpus, *asked) == 0
    printed = capsys.readouterr().err
    for role in ("train", "dev", "unlabelled"):
        assert f"--{role}-parts is now --{role}-splits" in printed
    assert "--test-parts" not in printed
    assert DataFolder(tmp_path).splits()["train"] == ["train-tiny"]


def test_only_splits_that_are_asked_for_have_features(
    corpus: Path, tmp_path: Path, make_part: Callable[..., None]
) -> None:
    root, data = tmp_path / "corpus", DataFolder(tmp_path / "data")
    shutil.copytree(corpus, root)
    make_part(root, "train-further", seed=5)
    common = ("--data-dir", data.root)
    asked = ("--train-splits", "train-*", "--dev-splits", "dev-a")
    assert run("prepare_manifests", *common, "--corpus-dir", root, *asked) == 0
    only = ("--train-splits", "train-t*,train-t*")
    assert run("compute_fbank", *common, *only, "--on-the-fly", "--speed-perturb") == 0
    assert not data.cuts("train-further").exists()
    assert len(list(read_items(data.cuts("train-tiny")))) == 30
    assert len(list(read_items(data.cuts("dev-a")))) == 4  # not at other speeds
    assert run("prepare_lang", *common, *only, "--vocab-size", 30) == 0
    assert not (data.lang() / "excluded_train-further.txt").exists()
    assert data.splits()["train"] == ["train-further", "train-tiny"]  # as before


def test_prepared_splits_are_reported(
    corpus: Path, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("--data-dir", prepared)
    assert run("describe_data", *common, "--corpus-dir", corpus) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{prepared}: train train-tiny; dev dev-a",
        "the corpus has no test split: only the dev splits are decoded",
    ]
    # An empty option, as run.sh gives it, is none.
    assert run("describe_data", *common, "--train-splits", "", "--dev-splits", "d*") == 0
    assert "train train-tiny; dev dev-a\n" in capsys.readouterr().out
    assert run("describe_data", *common, "--test-splits", "*") == 1
    assert "a training split and a test split" in capsys.readouterr().err
    assert run("describe_data", *common, "--corpus-dir", tmp_path) == 1
    assert "another corpus" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("program", "options", "message"),
    [
        (
            "prepare_manifests",
            ["--corpus-dir", "/nowhere", "--train-splits", "a"],
            "the corpus folder /nowhere does not exist",
        ),
        ("compute_fbank", [], "./run.sh --recipe RECIPE --stage 1"),
        ("prepare_lang", ["--train-splits", "train-*"], "./run.sh --recipe RECIPE --stage 1"),
        (
            "prepare_lang",
            ["--data-dir", "{prepared}", "--train-splits", "x"],
            "prepare others, or name some of: dev-a, train-tiny (--train-splits)",
        ),
        (
            "prepare_lang",
            ["--data-dir", "{manifests_only}"],
            "is missing\n  remedy: compute the features: ./run.sh --recipe RECIPE --stage 2",
        ),
        (
            "prepare_lang",
            ["--data-dir", "{prepared}", "--vocab-size", "9999"],
            "(--vocab-size)",
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
    (tmp_path / "data.json").symlink_to(prepared / "data.json")
    options = [o.format(prepared=prepared, manifests_only=tmp_path) for o in options]
    assert run(program, "--data-dir", tmp_path / "none", *options) == 1
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed
    assert printed.startswith("error: ")


def test_download_without_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = "http://localhost:9"  # the discard port: nothing listens
    options = ("--corpus", "mini_librispeech", "--out", tmp_path, "--base-url", url)
    assert run("download_corpus", *options, "--splits", "dev-* test-*") == 1
    assert "--base-url" in capsys.readouterr().err
    assert run("download_corpus", "--corpus", "musan", *options[2:]) == 1
    assert "--musan-dir, or go without: --musan no" in capsys.readouterr().err
    assert run("download_corpus", *options, "--splits", "dev-clean") == 1
    assert "name some of: dev-clean-2, train-clean-5" in capsys.readouterr().err


def test_text_and_paths_of_manifests_are_as_the_options_say(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Manifests with paths relative to the folder of a user, read from another one."""
    (tmp_path / "in").mkdir()
    shutil.copytree(corpus / "LibriSpeech/dev-a", tmp_path / "user/wav")
    first = run(
        "prepare_manifests", "--data-dir", tmp_path / "a", "--corpus-dir", corpus,
        "--train-splits", "dev-a",
    )  # fmt: skip
    assert first == 0
    for kind in ("recordings", "supervisions"):
        items = list(read_items(tmp_path / f"a/manifests/librispeech_{kind}_dev-a.jsonl.gz"))
        for item in items:
            for source in item.get("sources", ()):
                source["source"] = source["source"].replace(f"{corpus}/LibriSpeech/dev-a", "wav")
            item |= {"text": "½ CAT"} if kind == "supervisions" else {}
        write_items(tmp_path / f"in/{kind}.jsonl.gz", items)
    monkeypatch.chdir(tmp_path)
    common = ("--corpus-dir", "in", "--train-splits", "in", "--text-normalization", "nfkc")
    assert run("prepare_manifests", "--data-dir", tmp_path / "b", *common) == 1
    common += ("--audio-root", tmp_path / "user")
    assert run("prepare_manifests", "--data-dir", tmp_path / "b", *common) == 0
    found = list(read_items(tmp_path / "b/manifests/librispeech_supervisions_in.jsonl.gz"))
    assert len(found) == 4 and {item["text"] for item in found} == {"1⁄2 CAT"}
