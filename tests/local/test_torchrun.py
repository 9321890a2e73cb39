"""Processes that end have the last word, and torchrun adds no traceback to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from mvqkd.errors import UserError
from mvqkd.recipe.program import run_program

def main():
    if sys.argv[1] == "wait":
        Path(sys.argv[2], os.environ["RANK"]).touch()
        time.sleep(60)
    elif os.environ["RANK"] == "0":
        time.sleep(60)  # as in a collective
    elif sys.argv[1] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif sys.argv[1] == "interrupted":
        sys.exit(75)
    else:
        raise UserError("the disk is full", remedy="make room")

if sys.argv[1] != "fine":
    run_program(main)
"""


@pytest.fixture
def launch(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)

    launcher = [sys.executable, ROOT / "local/torchrun.py", "--standalone"]

    def start(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*launcher, "--nproc-per-node", "2", program, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    return start


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "status", "last"),
    [
        ("fine", 0, ""),
        ("failed", 1, "error: the disk is full\n  remedy: make room\n"),
        ("interrupted", 75, ""),
        ("killed", 137, "fewer processes; the same command goes on\n"),
    ],
)
def test_the_last_words_and_the_status_are_those_of_the_process(launch, what, status, last):
    process = launch(what)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == status, output
    assert "Traceback" not in output
    assert output.endswith(last) if last else "rror" not in output
    if what == "killed":
        assert "error: process 1 (pid " in output
        assert ") was ended by SIGKILL\n" in output


@pytest.mark.slow
def test_a_signal_ends_it_without_a_traceback(launch, tmp_path):
    process = launch("wait", str(tmp_path))
    deadline = time.monotonic() + 100
    while not ((tmp_path / "0").exists() and (tmp_path / "1").exists()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "Traceback" not in output
