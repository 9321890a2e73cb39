"""Stages 1 to 3, killed at random moments and started again, end with the same files."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mvqkd.data.jsonl import read_items

ROOT = Path(__file__).resolve().parents[2]
KILLS = 3

COMMANDS = {
    "prepare_manifests": "--corpus-dir {corpus} --parts train-big --nj 2",
    "compute_fbank": "--train-parts train-big --speed-perturb --nj 2",
    "prepare_lang": "--train-parts train-big --vocab-size 40",
}


def command(program: str, corpus: Path) -> list[str]:
    options = COMMANDS[program].format(corpus=corpus).split()
    return [sys.executable, str(ROOT / "local" / f"{program}.py"), "--data-dir", "data", *options]


def start(program: str, corpus: Path, folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command(program, corpus),
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def files(folder: Path) -> dict[str, bytes]:
    """All but what an interrupted process leaves under a temporary name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".tmp-")
    }


@pytest.fixture(scope="module")
def big_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("big")


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By program, the folder in which it ran without interruption."""
    return {}


@pytest.fixture
def finished(
    big_corpus: Path,
    stages: dict[str, Path],
    make_part: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, dict[str, Path], dict[str, float]]:
    """The corpus, and the state of the data before each program and after the last."""
    if not (big_corpus / "LibriSpeech").exists():
        make_part(big_corpus, "train-big", chapters=6, utterances=100)
    seconds: dict[str, float] = {}
    before: Path | None = None
    for program in COMMANDS:
        if program not in stages:
            folder = tmp_path_factory.mktemp(program)
            if before is not None:
                shutil.copytree(before / "data", folder / "data")
            begin = time.monotonic()
            assert start(program, big_corpus, folder).wait() == 0
            (folder / "seconds").write_text(str(time.monotonic() - begin))
            stages[program] = folder
        before = stages[program]
        seconds[program] = float((before / "seconds").read_text())
    return big_corpus, stages, seconds


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("program", list(COMMANDS))
def test_kill_and_go_on(
    finished: tuple[Path, dict[str, Path], dict[str, float]],
    program: str,
    seed: int,
    tmp_path: Path,
) -> None:
    corpus, stages, seconds = finished
    number = list(COMMANDS).index(program)
    if number > 0:
        shutil.copytree(stages[list(COMMANDS)[number - 1]] / "data", tmp_path / "data")
    moments = random.Random(f"{program} {seed}")
    for _ in range(KILLS):
        process = start(program, corpus, tmp_path)
        try:
            # Not during the imports, which take the first part of the time.
            process.wait(moments.uniform(0.4, 1.0) * seconds[program])
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.wait()
        for path in (tmp_path / "data").rglob("*.jsonl.gz"):
            if not path.name.startswith(".tmp-"):
                list(read_items(path))  # whole, or it raises
    assert start(program, corpus, tmp_path).wait() == 0
    assert files(tmp_path / "data") == files(stages[program] / "data")


@pytest.mark.slow
def test_workers_do_not_outlive_a_killed_program(
    finished: tuple[Path, dict[str, Path], dict[str, float]], tmp_path: Path
) -> None:
    corpus, stages, _ = finished
    shutil.copytree(stages["prepare_manifests"] / "data", tmp_path / "data")
    process = start("compute_fbank", corpus, tmp_path)
    children: list[int] = []
    deadline = time.monotonic() + 60
    task = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while not children and process.poll() is None and time.monotonic() < deadline:
        children = [int(child) for child in task.read_text().split()] if task.exists() else []
        time.sleep(0.05)
    if not children:
        process.wait()
        pytest.skip("no worker was seen before the program ended")
    process.kill()
    process.wait()
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline, "a worker lives on"
        time.sleep(0.1)
