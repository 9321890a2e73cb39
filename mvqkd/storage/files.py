"""Files that are either whole or absent: every output is written under a temporary name and
renamed. JSON carries a digest of itself, which is verified on reading."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mvqkd.errors import UserError

_ROOM = "make room; the same command goes on"
_PERMISSION = "give the permission to write there, or name another folder"
_IN_THE_WAY = "a file is where a folder belongs: move it away, or name another folder"
REFUSALS = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: "allow files of that size (ulimit -f); the same command goes on",
    errno.EROFS: _PERMISSION,
    errno.EACCES: _PERMISSION,
    errno.EPERM: _PERMISSION,
    errno.ENOTDIR: _IN_THE_WAY,
    errno.EEXIST: _IN_THE_WAY,
    errno.EISDIR: "a folder is where this file belongs: move it away",
    errno.ENAMETOOLONG: "name a folder with a shorter path",
    errno.EIO: "see the system's log: the disk may be failing",
}
"""Errors of disks and folders that are nobody's defect, and what to do about them."""

_DIGEST = "digest"
_PREFIX = "sha256:"
_COMMENT = "# sha256 of the lines below: "
_PROBE = bytes(2**20)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is flushed to disk and renamed to `path`.

    The temporary name keeps the suffixes of `path` (`epoch-3.pt` -> `.tmp-<pid>-epoch-3.pt`),
    because writers such as lhotse choose the format by suffix. When the body raises, the temporary
    file is removed and `path` stays as it was. A process that is killed leaves only a file
    beginning with `.tmp-`, which nothing reads.

    Raises:
        UserError: the disk is full or read-only, or a file is where a folder belongs.
    """
    path = Path(path)
    partial = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    with writing(path, probe=partial):
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)


@contextmanager
def writing(path: Path, *, probe: Path | None = None) -> Iterator[None]:
    """Say in words, naming `path`, that the body cannot write it.

    Args:
        path: file or folder.
        probe: a file that the body writes, and that goes with the end of it. Libraries tell of a
            full disk in errors of many kinds; whether it is one is tried there.

    Raises:
        UserError: as above.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        refused = error if isinstance(error, OSError) and error.errno in REFUSALS else None
        if refused is None and probe is not None:
            refused = _refusal(probe)
        if refused is None:
            raise
        raise cannot_write(refused, path) from error
    finally:
        if probe is not None:
            with suppress(OSError):  # the one that is told of comes first
                probe.unlink()


def cannot_write(error: OSError, path: str | Path | None = None) -> UserError:
    """One of `REFUSALS` in words; `path` is what was to be written, where that is known."""
    reason = os.strerror(error.errno or 0)  # the error's own words may be HDF5's, of many lines
    if path is not None:
        problem = f"{path} cannot be written: {reason}"
    else:
        problem = f"{error.filename}: {reason}" if error.filename else reason
    return UserError(problem, remedy=REFUSALS[error.errno or 0])


def _refusal(probe: Path) -> OSError | None:
    try:
        with open(probe, "ab") as file:
            file.write(_PROBE)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error if error.errno in REFUSALS else None
    return None


def make_folder(path: Path) -> None:
    """Make a folder and those above it.

    Raises:
        UserError: the disk is full or read-only, or a file is in the way.
    """
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path` in UTF-8, atomically."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write a JSON-able object, or a list of objects, to `path`, indented, atomically. Each has a
    digest of its other values as `digest`, which `read_json` verifies."""
    sealed = [_sealed(item) for item in value] if isinstance(value, list) else _sealed(value)
    write_text(path, json.dumps(sealed, indent=2, ensure_ascii=False) + "\n")


def read_json(
    path: str | Path,
    *,
    needs: Sequence[str] = (),
    remedy: str = "put a copy of it back",
    step: str | None = None,
) -> dict[str, Any]:
    """The object that `write_json` wrote, or one without a digest.

    Args:
        path: the file.
        needs: names of values that have to be there.
        remedy, step: of the error, see `UserError`.

    Raises:
        UserError: the file is missing or damaged, or its values are not those that were written.
    """
    with _named(path, remedy, step) as text:
        value = _opened(json.loads(text))
        if lacking := [name for name in needs if name not in value]:
            raise ValueError(f"it has no {', '.join(lacking)}")
        return value


def read_json_list(
    path: str | Path, *, remedy: str = "put a copy of it back", step: str | None = None
) -> list[dict[str, Any]]:
    """The list of objects that `write_json` wrote; arguments and errors as those of `read_json`."""
    with _named(path, remedy, step) as text:
        items = json.loads(text)
        if not isinstance(items, list):
            raise ValueError("no JSON list")
        return [_opened(item) for item in items]


@contextmanager
def _named(path: str | Path, remedy: str, step: str | None) -> Iterator[str]:
    """Yield the text of a file; what is wrong with it is said with its name."""
    if not Path(path).is_file():
        raise UserError(f"{path} is missing", remedy=remedy, step=step)
    try:
        yield Path(path).read_text(encoding="utf-8")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {error}", remedy=remedy, step=step) from None


def _sealed(value: dict[str, Any]) -> dict[str, Any]:
    value = {name: item for name, item in value.items() if name != _DIGEST}
    return {**value, _DIGEST: _digest_of(value)}


def _opened(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    # A damaged name of the digest does not hide it.
    names = [
        name
        for name, text in value.items()
        if name == _DIGEST or (isinstance(text, str) and text.startswith(_PREFIX))
    ]
    digests = [value.pop(name) for name in names]
    if any(digest != _digest_of(value) for digest in digests):
        raise ValueError(
            f"its values are not those that were written (after a change by hand, remove {_DIGEST})"
        )
    return value


def _digest_of(value: dict[str, Any]) -> str:
    text = json.dumps(value, sort_keys=True)
    return _PREFIX + hashlib.sha256(text.encode()).hexdigest()


def write_commented(path: str | Path, text: str) -> None:
    """Write lines of a language in which `#` begins a comment; before them their digest, which
    `read_commented` verifies. (After them, a truncated file would have none.)"""
    write_text(path, _COMMENT + hashlib.sha256(text.encode()).hexdigest() + "\n" + text)


def read_commented(path: Path) -> str:
    """What `write_commented` wrote, or a text without a digest.

    Raises:
        UserError: it is not what was written, or no UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is damaged, or no text: {error}") from None
    if not text:
        raise UserError(f"{path} is empty", remedy="put a copy of it back")
    first, _, lines = text.partition("\n")
    digest = hashlib.sha256(lines.encode()).hexdigest()
    if first.startswith(_COMMENT) and first.removeprefix(_COMMENT) != digest:
        raise UserError(
            f"{path} is damaged: its lines are not those that were written",
            remedy="put a copy of it back; after a change by hand, remove its first line",
        )
    return text


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
