"""Processes that work for another one: they must not outlive it, nor end before it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading


def end_with_parent() -> None:
    """Have this process of `multiprocessing` end when the one that it works for ends, however that
    came about: a worker that lived on would keep memory, locks and the program's output open.

    It may be dead already. torch's own watch of a loader's workers asks who their parent is when
    they begin, and takes what adopted them for it if the parent was killed before that.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def leave_signals_to_parent() -> None:
    """Have this process of `multiprocessing` end by SIGTERM only when its parent sends it.

    Batch systems (SLURM, systemd) signal every process of a job at once. A training then writes a
    checkpoint, and must not lose the workers that its last step waits for. Main thread only, before
    the process starts threads of its own.
    """
    if not hasattr(signal, "sigwaitinfo"):  # not on macOS
        return
    parent = os.getppid()
    # Other threads inherit the mask, so that the signal waits for the one that asks who sent it.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])

    def watch() -> None:
        while True:
            received = signal.sigwaitinfo([signal.SIGTERM, signal.SIGINT])
            if received.si_pid == parent and received.si_signo == signal.SIGTERM:
                os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
