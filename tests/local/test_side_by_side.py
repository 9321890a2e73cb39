"""Commands run side by side, and end together where one fails."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "local/side_by_side.py"
WAIT = """
import pathlib, signal, sys, time
def end(number, frame):
    print("written", flush=True)
    sys.exit(75)
signal.signal(signal.SIGTERM, end)
pathlib.Path(sys.argv[1]).touch()
time.sleep(60)
"""


def launch(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, PROGRAM, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def python(program: str, *arguments: object) -> list[object]:
    return [sys.executable, "-c", program, *arguments]


def wait_for(*paths: Path) -> None:
    deadline = time.monotonic() + 60
    while not all(path.exists() for path in paths):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_lines_have_names_and_both_streams_are_shown():
    program = "import sys; print(sys.argv[1]); print('aside', file=sys.stderr)"
    process = launch(":", "a", *python(program, "x y"), ":", "b", *python(program, "z"))
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert sorted(output.splitlines()) == ["a | aside", "a | x y", "b | aside", "b | z"]


def test_only_so_many_run_at_a_time(tmp_path):
    program = """
import os, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
mine = folder / str(os.getpid())
mine.touch()
time.sleep(0.3)
print(len(list(folder.iterdir())))
time.sleep(0.1)
mine.unlink()
"""
    commands = [word for name in "abcd" for word in (":", name, *python(program, tmp_path))]
    process = launch("--jobs", 2, *commands)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert {line.split(" | ")[0] for line in output.splitlines()} == set("abcd")
    assert max(int(line.split(" | ")[1]) for line in output.splitlines()) == 2


@pytest.mark.parametrize(("last_words", "status"), [("sys.exit(3)", 3), ("os.abort()", 134)])
def test_a_failure_ends_the_others_and_begins_no_other(tmp_path, last_words, status):
    running = tmp_path / "running"
    failing = f"""
import os, sys, time
while not os.path.exists(sys.argv[1]): time.sleep(0.02)
{last_words}
"""
    process = launch(
        *(":", "waits", *python(WAIT, running)),
        *(":", "fails", *python(failing, running)),
        *(":", "never", *python("print('began')")),
    )
    output, _ = process.communicate(timeout=60)
    assert process.returncode == status
    assert "waits | written" in output
    assert "began" not in output


def test_a_command_that_is_missing_ends_the_others(tmp_path):
    process = launch(":", "waits", *python(WAIT, tmp_path / "x"), ":", "a", tmp_path / "none")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 127
    assert "error: a cannot be run: " in output and "Traceback" not in output


def test_it_ends_where_nobody_reads_its_output(tmp_path):
    program = "import time\nwhile True: print('x' * 99, flush=True); time.sleep(0.01)"
    process = launch(":", "a", *python(program), ":", "b", *python(program))
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=60) == 128 + signal.SIGPIPE


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_passed_on(tmp_path, number):
    first, second = tmp_path / "first", tmp_path / "second"
    process = launch(":", "a", *python(WAIT, first), ":", "b", *python(WAIT, second))
    wait_for(first, second)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert sorted(output.splitlines()) == ["a | written", "b | written"]


@pytest.mark.parametrize(
    "arguments", [(), ("a", "true"), (":", "a"), ("--jobs", 0, ":", "a", "true")]
)
def test_a_wrong_call_is_refused(arguments):
    process = launch(*arguments)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "error: after each ':'" in output
