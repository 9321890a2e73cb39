from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from mvqkd.errors import UserError
from mvqkd.storage.locks import own_folder

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
from pathlib import Path
from mvqkd.storage.locks import own_folder
with own_folder(Path(sys.argv[1]), work="test", wait=True):
    print("mine", flush=True)
    sys.stdin.read()
"""
OPTIONS = {"work": "training", "wait": False}


def start(folder: Path) -> subprocess.Popen[str]:
    """A program that says when the folder is its own, and keeps it."""
    command = [sys.executable, "-c", PROGRAM, str(folder)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )


def test_a_second_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    with start(tmp_path) as other:
        assert other.stdout is not None and other.stdout.readline() == "mine\n"
        for _ in range(2):  # asking does not take the lock from its owner
            with pytest.raises(UserError, match=f"{tmp_path}: process {other.pid} on"):
                own_folder(tmp_path, **OPTIONS).__enter__()
        other.kill()
    with own_folder(tmp_path, **OPTIONS):
        assert (tmp_path / ".lock").read_text().startswith(f"{os.getpid()} on ")


def test_what_is_read_only_needs_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with own_folder(tmp_path, **OPTIONS):
        assert not list(tmp_path.iterdir())


def test_a_second_run_may_wait(tmp_path: Path) -> None:
    with start(tmp_path) as first, start(tmp_path) as second:
        assert first.stdout is not None and second.stdout is not None
        owner = select.select([first.stdout, second.stdout], [], [], 60)[0]
        assert len(owner) == 1
        waiting = second if owner[0] is first.stdout else first
        assert waiting.stdout is not None
        assert not select.select([waiting.stdout], [], [], 1)[0]
        (first if waiting is second else second).kill()
        assert waiting.stdout.readline() == "mine\n"
        waiting.kill()
