"""Workers of a killed program end, whenever it is killed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Two workers, so that with `fork` the second one inherits what the first one is watched by.
PROGRAM = """
import multiprocessing, sys, time
from pathlib import Path
from mvqkd.runtime.workers import end_with_parent

def work(begun, go):
    begun.touch()
    while not go.exists():
        time.sleep(0.01)
    end_with_parent()
    time.sleep(100)

if __name__ == "__main__":
    method, folder = sys.argv[1:]
    context = multiprocessing.get_context(method)
    go = Path(folder) / "go"
    workers = [context.Process(target=work, args=(Path(folder) / f"begun-{i}", go)) for i in "ab"]
    for worker in workers:
        worker.start()
    while len(list(Path(folder).glob("begun-*"))) < 2:
        time.sleep(0.01)
    print("begun", flush=True)
    time.sleep(100)
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("before", [True, False])
def test_workers_end_when_their_parent_is_killed(tmp_path: Path, method: str, before: bool) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, str(program), method, str(tmp_path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "begun\n"
        if before:  # killed before the workers watch it
            process.kill()
            process.wait()
        (tmp_path / "go").touch()
        if not before:
            time.sleep(0.3)
            process.kill()
        # Nobody has the pipe open any more: not the program, not a worker.
        assert process.communicate(timeout=20) == ("", None)


def test_a_program_itself_goes_on() -> None:
    program = "from mvqkd.runtime.workers import end_with_parent; end_with_parent(); print('on')"
    command = [sys.executable, "-c", program]
    assert subprocess.check_output(command, text=True, cwd=ROOT) == "on\n"
