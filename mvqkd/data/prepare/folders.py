"""The files of a folder, links to other folders included."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path


def _ignore(path: Path, why: str) -> None:
    pass


def walk_files(folder: Path, skip: Callable[[Path, str], None] = _ignore) -> Iterator[Path]:
    """The files of a folder and of all folders in it, in no order; broken links are among them.

    A folder is read once, however many links lead to it, and none that contains `folder` or is
    hidden (`.AppleDouble`).

    Args:
        folder: where to begin.
        skip: is told of each folder that is not read, and why.
    """
    seen: dict[tuple[int, int], Path] = {}
    for above in folder.resolve().parents:
        if above.exists():
            seen[_identity(above)] = above
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        try:
            first = seen.setdefault(_identity(here), here)
            if first is not here:
                skip(here, f"a link to {first}")
                continue
            entries = list(os.scandir(here))
        except OSError as error:
            skip(here, f"cannot be read: {error.strerror}")
            continue
        # Sorted: of two links to a folder, the same one is read everywhere.
        for entry in sorted(entries, key=lambda entry: entry.name, reverse=True):
            if entry.is_dir() and entry.name.startswith("."):
                skip(here / entry.name, "a hidden folder")
            elif entry.is_dir():
                waiting.append(here / entry.name)
            else:
                yield here / entry.name


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino
