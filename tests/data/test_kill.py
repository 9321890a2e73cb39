"""Stages 1 to 3, killed at random moments and started again, end with the same files."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KILLS = 8

COMMANDS = {
    "prepare_manifests": "--corpus-dir {corpus} --train-splits train-big --dev-splits dev-a --nj 2",
    "compute_fbank": "--speed-perturb --nj 2",
    "prepare_lang": "--vocab-size 40",
}

# Imports once, forks for each attempt, and so kills during the work and not during imports. Prints
# the seconds of the last attempt, which is not killed.
DRIVER = """
import os, random, runpy, signal, sys, time
from pathlib import Path
import mvqkd.data.prepare.fbank, mvqkd.data.prepare.tokens, mvqkd.data.prepare.manifests
from mvqkd.storage.jsonl import read_items

program, seed, kills, longest = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
moments = random.Random(program + seed)
for attempt in range(kills + 1):
    begin = time.monotonic()
    child = os.fork()
    if child == 0:
        sys.argv = [program, *sys.argv[5:]]
        runpy.run_path(program, run_name="__main__")
    if attempt < kills:
        time.sleep(moments.uniform(0, longest))
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    for path in Path("data").rglob("*.jsonl.gz"):
        if not path.name.startswith(".tmp-"):
            list(read_items(path))  # whole, or it raises
print(time.monotonic() - begin)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def run(
    program: str, corpus: Path, folder: Path, *, seed: int, kills: int, longest: float
) -> float:
    """Run a program in a folder, after some attempts that are killed; returns its seconds."""
    options = COMMANDS[program].format(corpus=corpus).split()
    path = str(ROOT / "local" / f"{program}.py")
    command = [sys.executable, "-c", DRIVER, path, str(seed), str(kills), str(longest)]
    done = subprocess.run(
        [*command, "--data-dir", "data", *options],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return float(done.stdout.split()[-1])


def files(folder: Path) -> dict[str, bytes]:
    """All but what a process leaves of itself: temporary names, the lock with its number."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith((".tmp-", ".lock"))
    }


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("big")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_kill_and_go_on(
    seed: int, big: Path, tmp_path: Path, make_part: Callable[..., None]
) -> None:
    if not (big / "LibriSpeech").exists():
        make_part(big, "train-big", chapters=4, utterances=100)
        make_part(big, "dev-a", utterances=2)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    for program in COMMANDS:
        seconds = run(program, big, whole, seed=0, kills=0, longest=0)
        run(program, big, killed, seed=seed, kills=KILLS, longest=seconds)
        assert files(killed) == files(whole), program


@pytest.mark.slow
def test_workers_do_not_outlive_a_killed_program(
    prepared: Path, tmp_path: Path, make_part: Callable[..., None]
) -> None:
    make_part(tmp_path, "train-big", chapters=4, utterances=150)
    make_part(tmp_path, "dev-a", utterances=2)
    run("prepare_manifests", tmp_path, tmp_path, seed=0, kills=0, longest=0)
    command = [sys.executable, str(ROOT / "local/compute_fbank.py"), "--data-dir", "data"]
    process = subprocess.Popen(
        command + COMMANDS["compute_fbank"].split(),
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    children: list[str] = []
    task = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while len(children) < 2 and process.poll() is None:
        children = task.read_text().split()
        time.sleep(0.01)
    assert len(children) == 2
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline, "a worker lives on"
        time.sleep(0.1)
