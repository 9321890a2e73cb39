from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mvqkd.errors import UserError
from mvqkd.locks import own_folder

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = {"work": "training", "remedy": "wait"}


def test_a_second_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from mvqkd.locks import own_folder\n"
        "with own_folder(Path(sys.argv[1]), work='', remedy=''):\n"
        "    print('mine', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "mine\n"
        for _ in range(2):  # asking does not take the lock from its owner
            with pytest.raises(UserError, match=f"{tmp_path}: process {other.pid} on"):
                own_folder(tmp_path, **OPTIONS).__enter__()
        other.kill()
    with own_folder(tmp_path, **OPTIONS):
        assert (tmp_path / ".lock").read_text().startswith(f"{os.getpid()} on ")
