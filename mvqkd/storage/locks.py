"""One writer for a folder."""

from __future__ import annotations

import fcntl
import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mvqkd.errors import UserError
from mvqkd.storage.files import make_folder, writing


@contextmanager
def own_folder(folder: Path, *, work: str, wait: bool) -> Iterator[None]:
    """Keep other runs out of a folder, which two of them would fill with each other's files.

    The lock is the process's own and goes with it, however it ends; the file `.lock` stays.

    Args:
        folder: is made if it is not there.
        work: what runs there, for the message: "training".
        wait: for the end of another process that holds the lock.

    Raises:
        UserError: another process holds it, and `wait` is false.
    """
    make_folder(folder)
    if not os.access(folder, os.W_OK):  # finished, and read-only since: nobody writes there
        yield
        return
    # Appending, so that opening it does not erase who holds the lock.
    with open(folder / ".lock", "a+", encoding="utf-8") as file:
        try:
            # Not flock: children inherit that, and loader processes outlive a killed run.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # what systems say of a lock that is held
            file.seek(0)
            problem = f"another {work} is at work in {folder}: process {file.read().strip()}"
            if not wait:
                raise UserError(
                    problem, remedy="wait for its end, stop it, or name another folder"
                ) from None
            logging.info("%s; waiting for its end", problem)
            fcntl.lockf(file, fcntl.LOCK_EX)
        with writing(folder / ".lock"):
            file.truncate(0)
            print(f"{os.getpid()} on {platform.node()}", file=file, flush=True)
        yield
