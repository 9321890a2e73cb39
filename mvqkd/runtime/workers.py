"""Processes that work for another one, and must not outlive it."""

from __future__ import annotations

import multiprocessing
import os
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
