"""A student begins with another's weights and tokens, and replays the other's data: stages 3, 9 and
10 end to end on a few seconds of noise."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mvqkd.training.metrics import read_metrics
from tests.data.conftest import prepare, write_part
from tests.training.test_program import ROOT, SIZES, _pretrained, _run, _start

pytestmark = [pytest.mark.slow]
TWO = (str(ROOT / "local" / "torchrun.py"), "--standalone", "--nproc-per-node", "2")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Prepared data: the old, and the new, whose manifests have the same names."""
    found = []
    for name, seed in (("old", 0), ("new", 1)):
        root = tmp_path_factory.mktemp(f"corpus-{name}")
        write_part(root, "train-tiny", seed=seed)
        write_part(root, "dev-a", utterances=2, seed=seed)
        found.append(prepare(root, tmp_path_factory.mktemp("data") / name, speeds=(1.0,)))
    return found[0], found[1]


@pytest.fixture(scope="module")
def student(folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on the old data."""
    exp = tmp_path_factory.mktemp("student")
    _run(folders[0], exp, training__num_epochs=1)
    return exp


def distance(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    return sum(float((value - right[name]).square().sum()) for name, value in left.items()) ** 0.5


def program(name: str, *options: object) -> str:
    command = [sys.executable, str(ROOT / "local" / f"{name}.py"), *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=200)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    return output


def test_a_student_is_fine_tuned_with_its_tokens_and_replay(folders, student, tmp_path):
    old, new = folders[0], Path(shutil.copytree(folders[1], tmp_path / "new"))
    shutil.rmtree(new / "lang_bpe_30")
    options = {"training__init": student, "data__replay": old, "data__extra_dev": old}
    options |= {"model__dropout": 0, "optimizer__warmup_steps": 2}
    process = _start(new, tmp_path / "early", **options)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 1 and "--stage 3" in output
    config = tmp_path / "tuned.yaml"
    config.write_text(f"data:\n  replay: {old}\n  extra_dev: [{old}]\n")
    program("prepare_lang", "--data-dir", new, "--tokens-from", student, "--config", config)
    assert (new / "lang_bpe_30" / "bpe.model").read_bytes() == (student / "bpe.model").read_bytes()

    output = _run(new, tmp_path / "one", **options)
    assert "begins with the weights of" in output and "replayed: " in output
    assert "vocabulary is another one" not in output and "begin at random" not in output
    lines = read_metrics(tmp_path / "one" / "log" / "metrics.jsonl")
    found = [(line["kind"], line["step"]) for line in lines if line["kind"] != "train"]
    steps = max(step for _, step in found)
    assert found == [
        (kind, step) for step in (0, steps // 2, steps) for kind in ("valid", "valid/old/dev-a")
    ]
    # With two processes it takes the same steps, which differ by rounding alone.
    _run(new, tmp_path / "two", *TWO, **options)
    without = _run(new, tmp_path / "without", **{**options, "data__replay": "[]"})
    assert "replayed: " not in without
    one, two, other = (_pretrained(tmp_path / name) for name in ("one", "two", "without"))
    assert distance(one, other) > 0 and distance(one, two) < 0.1 * distance(one, other)

    # The old data is decoded with the tokens of the student, whatever its folder has.
    shutil.copytree(old, tmp_path / "elsewhere", ignore=shutil.ignore_patterns("lang_*"))
    command = ["--exp-dir", tmp_path / "one", "--data-dir", tmp_path / "elsewhere"]
    output = program("decode", *command, "--splits", "dev-a", "--method", "greedy_search")
    assert "%WER" in output


def test_resumed_it_ends_with_the_same_weights(folders, student, tmp_path):
    new = Path(shutil.copytree(folders[1], tmp_path / "new"))
    config = tmp_path / "tuned.yaml"
    config.write_text(f"data:\n  replay: {folders[0]}\n")
    program("prepare_lang", "--data-dir", new, "--vocab-size", 30, "--config", config)
    options = {"training__init": student, "data__replay": folders[0], "data__replay_ratio": 0.7}
    assert SIZES["training.save_interval"] == 2
    output = _run(new, tmp_path / "whole", **options)
    assert "vocabulary is another one" in output
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    for name in ("epoch-2.pt", "pretrained.pt"):
        (tmp_path / "parts" / name).unlink()
    # As if it had been killed after its last checkpoint but one, within an epoch.
    checkpoints = sorted(
        (tmp_path / "parts").glob("checkpoint-*.pt"), key=lambda path: int(path.stem.split("-")[1])
    )
    assert len(checkpoints) > 1
    checkpoints[-1].unlink()
    output = _run(new, tmp_path / "parts", **options)
    assert "going on from" in output and "begins with the weights" not in output
    whole, parts = _pretrained(tmp_path / "whole"), _pretrained(tmp_path / "parts")
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
