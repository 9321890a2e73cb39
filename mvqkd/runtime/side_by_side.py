"""Commands that run side by side, and end together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from types import FrameType


class SideBySide:
    """Runs commands, some at a time; each has its share of the cores in `OMP_NUM_THREADS`.

    Args:
        jobs: commands at a time.
    """

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._children: list[subprocess.Popen[str]] = []
        self._status = 0  # of the first that failed, or of the signal
        self._changed = threading.Condition(threading.RLock())

    def run(self, commands: list[list[str]]) -> int:
        """Run them, in the main thread. What they print follows their names.

        Args:
            commands: name, program and arguments of each.

        Returns:
            exit status as a shell has it, when all have ended: 0, or that of the first that failed,
            or of a signal; then the others were ended by SIGTERM.
        """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._stop)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        environment = {"OMP_NUM_THREADS": str(max(1, (cores or 1) // self._jobs)), **os.environ}
        readers = []
        for name, *command in commands:
            with self._changed:
                self._changed.wait_for(lambda: len(self._children) < self._jobs)
                if self._status:
                    break
                try:
                    child = subprocess.Popen(
                        command,
                        env=environment,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.STDOUT,
                        text=True,
                        errors="replace",
                    )
                except OSError as error:
                    print(f"error: {name} cannot be run: {error}", file=sys.stderr)
                    self._end(127)
                    break
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
            try:
                print(f"{name} | {line}", end="", flush=True)
            except OSError:  # nobody reads: go on reading, so that the command can end
                self._end(128 + signal.SIGPIPE)
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
