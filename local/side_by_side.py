#!/usr/bin/env python3
"""Run commands side by side, on machines where each of them uses one core.

    python local/side_by_side.py --jobs 2 : baseline python local/train.py ... : mvq python ...

Each command follows a `:` and its name, which precedes every line that it prints. The next begins
when one ends. Where one fails, or a signal comes, the others are told to end (SIGTERM: a training
writes a checkpoint first), no further one begins, and the exit status is that of the first failure.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
from itertools import groupby
from types import FrameType


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=2, help="at the same time")
    parser.add_argument("commands", nargs=argparse.REMAINDER, metavar=": NAME COMMAND")
    options = parser.parse_args()
    words = groupby(options.commands, lambda word: word == ":")
    commands = [list(command) for is_colon, command in words if not is_colon]
    if options.jobs < 1 or options.commands[:1] != [":"] or any(len(c) < 2 for c in commands):
        parser.error("after each ':' come a name and a command; --jobs is at least 1")
    return SideBySide(options.jobs).run(commands)


class SideBySide:
    """Runs commands, some at a time."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._children: list[subprocess.Popen[str]] = []
        self._status = 0  # of the first that failed, or of the signal
        self._changed = threading.Condition(threading.RLock())

    def run(self, commands: list[list[str]]) -> int:
        """The exit status, when all have ended."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._stop)
        cores = max(1, (os.cpu_count() or 1) // self._jobs)
        environment = {"OMP_NUM_THREADS": str(cores), **os.environ}
        readers = []
        for name, *command in commands:
            with self._changed:
                self._changed.wait_for(lambda: len(self._children) < self._jobs)
                if self._status:
                    break
                child = subprocess.Popen(
                    command,
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    errors="replace",
                )
                self._children.append(child)
                if self._status:  # a signal came in between
                    child.terminate()
            readers.append(threading.Thread(target=self._follow, args=(name, child)))
            readers[-1].start()
        for reader in readers:
            reader.join()
        return self._status

    def _follow(self, name: str, child: subprocess.Popen[str]) -> None:
        """Print what a command prints, until it ends."""
        assert child.stdout is not None
        for line in child.stdout:
            print(f"{name} | {line}", end="", flush=True)
        status = child.wait()
        with self._changed:
            self._children.remove(child)
            if status:
                self._end(status if status > 0 else 128 - status)
            self._changed.notify()

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        self._end(128 + number)

    def _end(self, status: int) -> None:
        with self._changed:
            self._status = self._status or status
            for child in self._children:
                child.terminate()


if __name__ == "__main__":
    sys.exit(main())
