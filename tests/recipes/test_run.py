"""run.sh from the corpus to the table, whole, again, and killed on the way."""

from __future__ import annotations

import gzip
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mvqkd import Recognizer

pytest.importorskip("espeakng_loader", reason="the tiny corpus is spoken by espeak-ng")
# One process for all: they share a run of the recipe, and nothing takes longer.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200), pytest.mark.xdist_group("run")]

ROOT = Path(__file__).resolve().parents[2]
STAGES = range(13)
KILLS_PER_STAGE = 2


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            "bash",
            str(ROOT / "run.sh"),
            *("--recipe", "tests/recipes/tiny", "--no-install", "--nj", "2"),
            *("--data-dir", str(folder / "data"), "--exp-dir", str(folder / "exp")),
            *options,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run(folder: Path, *options: str) -> str:
    process = start(folder, *options)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return output


def run_stage(folder: Path, stage: int) -> str:
    return run(folder, "--stage", str(stage), "--stop-stage", str(stage))


def contents(folder: Path) -> dict[str, object]:
    """What a run leaves to its user: everything but clocks, logs and commands."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if (
            path.suffix in {".flac", ".lca", ".model"}
            or (path.suffix == ".h5" and "teachers" in path.parts)
            or path.name.endswith(".trans.txt")
        ):
            found[name] = path.read_bytes()
        elif path.name.endswith(".jsonl.gz"):
            found[name] = gzip.decompress(path.read_bytes())
        elif path.name.startswith(("recogs-", "errs-", "wer-summary-")) or name.endswith(
            ("tokens.txt", "config.yaml", "SPEAKERS.TXT")
        ):
            found[name] = path.read_text(encoding="utf-8")
        elif path.name.startswith("epoch-") or path.name == "pretrained.pt":
            found[name] = torch.load(path, weights_only=True)["model"]
        elif path.name.startswith("quantizer-") and path.suffix == ".pt":
            found[name] = torch.load(path, weights_only=True)
    return found


def assert_same(left: object, right: object, name: str) -> None:
    if isinstance(left, dict) and isinstance(right, dict):
        assert left.keys() == right.keys(), name
        for key in left:
            assert_same(left[key], right[key], f"{name} {key}")
    elif isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        assert torch.equal(left, right), name
    else:
        assert left == right, name


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, dict[str, object], list[float]]:
    """A folder that was run without interruption: where, what it held, seconds of each stage."""
    folder = tmp_path_factory.mktemp("run") / "here"
    seconds = []
    for stage in STAGES:
        begin = time.monotonic()
        run_stage(folder, stage)
        seconds.append(time.monotonic() - begin)
    return folder, contents(folder), seconds


def test_ends_with_a_table(whole):
    folder, held, _ = whole
    page = (folder / "exp/RESULTS.md").read_text(encoding="utf-8")
    assert "tiny" in page and "test-mini WER" in page
    assert (folder / "exp/wer.png").is_file()
    assert (folder / "exp/tiny/log/curves.png").is_file()
    for name in ["epoch-3.pt", "best-valid-loss.pt", "pretrained.pt", "config.yaml"]:
        assert (folder / "exp/tiny" / name).is_file()
    recogs = [name for name in held if "modified_beam_search/recogs-test-mini" in name]
    assert recogs and "ref=[" in str(held[recogs[0]])


def test_the_readme_s_example_recognizes_a_file(whole):
    folder, held, _ = whole
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
    (example,) = (example for example in examples if "exp/mini" in example)
    audio = sorted((folder / "data/corpus").rglob("test-mini/**/*.flac"))[0]
    for name, path in (
        ("exp/mini/streaming_mvq", folder / "exp/tiny"),
        ("speech.flac", audio),
    ):
        assert name in example
        example = example.replace(name, str(path))
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (recogs,) = (
        text
        for name, text in held.items()
        if "tiny/modified_beam_search/recogs" in name and "test-mini" in name
    )
    assert f"{audio.stem}:\thyp={done.stdout.split()}" in recogs


def test_the_recipe_of_the_documentation_trains_a_student(whole, tmp_path):
    folder, _, _ = whole
    program = ROOT / "docs/examples/custom_recipe/train.py"
    options = ["--data-dir", folder / "data", "--exp-dir", tmp_path / "exp", "--num-epochs", "1"]
    command = [sys.executable, program, *options, "--step-duration", "10"]
    for _ in range(2):  # again, it is finished
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    audio = sorted((folder / "data/corpus").rglob("test-mini/**/*.flac"))[:1]
    assert len(Recognizer.load(tmp_path / "exp").transcribe(audio)) == 1


def test_again_changes_nothing(whole):
    folder, held, _ = whole
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*.pt")}
    run(folder)
    assert_same(contents(folder), held, "run again")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.pt")} == times


def test_a_stage_without_what_it_needs_names_the_stage_to_run(tmp_path):
    process = start(tmp_path / "empty", "--stage", "2")
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "remedy:" in output and "--stage 1" in output


def test_other_values_in_a_used_folder_are_refused(whole):
    folder, _, _ = whole
    process = start(folder, "--stage", "9", "--stop-stage", "9", "--model.num_layers", "3")
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "model.num_layers: 1 -> 3" in output
    # The values are meant for the student: its teacher, which stands before it, stays as it is.
    assert "exp/tiny is trained already" in output
    assert "exp/student holds a training with another configuration" in output


def test_a_variant_has_a_folder_of_its_own(whole):
    folder, held, _ = whole
    options = ["--exp", "tiny", "--variant", "short", "--training.num_epochs", "1"]
    output = run(folder, "--stage", "9", "--stop-stage", "10", *options, "--decoding.avg", "1")
    assert "tiny-short" in output
    variant = folder / "exp" / "tiny-short"
    assert not (variant / "epoch-2.pt").exists()
    assert list(variant.glob("*/recogs-test-mini-*.txt"))
    shutil.rmtree(variant)
    assert_same(contents(folder), held, "beside a variant")


@pytest.fixture
def twins(whole, tmp_path) -> list[str]:
    """Options of run.sh: two equal students of a recipe that trains two processes without a GPU."""
    recipe = tmp_path / "twins"
    (recipe / "conf").mkdir(parents=True)
    for name in ("castor", "pollux"):
        shutil.copy(ROOT / "tests/recipes/tiny/conf/tiny.yaml", recipe / f"conf/{name}.yaml")
    conf = (ROOT / "tests/recipes/tiny/recipe.conf").read_text(encoding="utf-8")
    more = 'experiments="castor pollux"\ncpu_processes=2\n'
    (recipe / "recipe.conf").write_text(conf + more, encoding="utf-8")
    data = whole[0] / "data"
    stage = ("--stage", "9", "--stop-stage", "9")
    return ["--recipe", str(recipe), "--data-dir", str(data), *stage]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU takes one training at a time")
def test_students_train_side_by_side_and_stop_together(twins, tmp_path):
    once, resumed = tmp_path / "once", tmp_path / "resumed"
    output = run(tmp_path, *twins, "--exp-dir", str(once))
    assert re.search(r"^castor \| .*training begins", output, re.M)
    assert re.search(r"^pollux \| .*training begins", output, re.M)

    process = start(tmp_path, *twins, "--exp-dir", str(resumed))
    assert process.stdout is not None
    waiting = {"castor", "pollux"}
    for line in process.stdout:
        if "training begins" in line:
            waiting.discard(line.split(" | ")[0])
        if not waiting:
            break
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert re.findall(r"^(\w+) \| .*stopped by SIGTERM", output, re.M)
    run(tmp_path, *twins, "--exp-dir", str(resumed))
    for name in ("once/pollux", "resumed/castor", "resumed/pollux"):
        assert_same(contents(tmp_path / name), contents(once / "castor"), name)


@pytest.mark.parametrize("seed", [0])
def test_killed_at_random_moments_it_ends_the_same(whole, seed):
    folder, held, seconds = whole
    aside = folder.with_name("whole")
    folder.rename(aside)  # the same paths stand in manifests, so the other run must be here
    moments = random.Random(seed)
    try:
        for stage in STAGES:
            limit = seconds[stage]
            for _ in range(KILLS_PER_STAGE):
                limit = kill_once(folder, stage, moments, limit)
            run_stage(folder, stage)
        assert_same(contents(folder), held, "after kills")
    finally:
        folder.rename(folder.with_name(f"killed-{seed}"))
        aside.rename(folder)


def kill_once(folder: Path, stage: int, moments: random.Random, limit: float) -> float:
    """Kill a stage at a random moment of the `limit` seconds that it may take.

    When it ends sooner (a first run compiles, a machine gets faster, a kill left little to do), the
    folder is put back and the stage is killed earlier. Returns what the limit was in the end.
    """
    before = folder.with_name("before")
    for _ in range(20):
        shutil.rmtree(before, ignore_errors=True)
        if folder.exists():
            shutil.copytree(folder, before)
        begin = time.monotonic()
        process = start(folder, "--stage", str(stage), "--stop-stage", str(stage))
        try:
            process.communicate(timeout=moments.uniform(0.2, 0.95) * limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return limit
        limit = min(limit, time.monotonic() - begin)
        shutil.rmtree(folder)
        if before.exists():
            before.rename(folder)
    raise AssertionError(f"stage {stage} always ended before it was killed")
