"""Gzipped JSON lines, the format of lhotse's manifests; equal contents give equal bytes."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from mvqkd.errors import UserError
from mvqkd.storage.files import atomic_path

_T = TypeVar("_T")
_CHECKSUM = "crc32"
DAMAGED = "put a copy of it back; if a stage made it, delete it and run that stage again"
"""What to do about a manifest that is damaged: it may be of a corpus."""


def read_lines(path: str | Path) -> Iterator[bytes]:
    """The lines of a `.jsonl` or `.jsonl.gz`.

    The checksum of a `.gz` stands at its end: it is read to there before the first line is given,
    as nothing shall come of damaged ones.

    Raises:
        UserError: the file is missing or damaged.
    """
    path = Path(path)
    opener: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            if path.suffix == ".gz":
                if not file.read(1) and not path.stat().st_size:
                    raise EOFError("it is empty")
                while file.read(2**20):
                    pass
                file.seek(0)
            yield from file
    except FileNotFoundError:
        raise UserError(f"{path} is missing", remedy="run the stage that makes it") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {error}", remedy=DAMAGED) from None


def read_items(path: str | Path) -> Iterator[dict[str, Any]]:
    """The objects of a `.jsonl` or `.jsonl.gz`.

    Raises:
        UserError: the file is missing or damaged.
    """
    for number, line in enumerate(read_lines(path), 1):
        try:
            yield json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number} is not JSON: {error}", remedy=DAMAGED) from None


def read_built(path: str | Path, build: Callable[[dict[str, Any]], _T]) -> Iterator[_T]:
    """What `build` makes of the objects of a `.jsonl` or `.jsonl.gz`.

    Raises:
        UserError: the file is missing or damaged, or `build` cannot make anything of an object.
    """
    for number, item in enumerate(read_items(path), 1):
        try:
            built = build(item)
        except Exception as error:  # of things that are something else
            raise UserError(
                f"{path}, line {number} is something else: {error!r}", remedy=DAMAGED
            ) from error
        yield built


def write_items(path: str | Path, items: Iterable[dict[str, Any]]) -> None:
    """Write objects as `.jsonl.gz`, atomically. The same objects give the same bytes."""
    with (
        atomic_path(path) as partial,
        open(partial, "wb") as raw,
        # Neither time nor name of the file in the gzip header. Level 6 is four times as fast as
        # gzip's 9, and as small on manifests.
        gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0) as file,
    ):
        for item in items:
            file.write(json.dumps(item, ensure_ascii=False).encode() + b"\n")


def log_line(values: dict[str, Any]) -> str:
    """A line of a log of JSON lines, with its CRC-32 as `crc32`, for `read_log`."""
    checksum = zlib.crc32(json.dumps(values).encode())
    return json.dumps({**values, _CHECKSUM: checksum}) + "\n"


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a log; a damaged one, or one that a killed process left half written, is left
    out. Those of earlier versions have no checksum. Empty when there is no such file."""
    path = Path(path)
    lines = []
    for text in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            line = json.loads(text)
            checksum = line.pop(_CHECKSUM, None)
        except (ValueError, AttributeError, TypeError):
            continue
        if checksum in (None, zlib.crc32(json.dumps(line).encode())):
            lines.append(line)
    return lines


def stem(path: Path) -> str:
    """The name of a file without `.jsonl` or `.jsonl.gz`; other dots belong to the name."""
    return path.name.removesuffix(".gz").removesuffix(".jsonl")


def fingerprint(*parts: Any) -> str:
    """Hash of JSON-able values and of the contents of files (given as `Path`)."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else json.dumps(part).encode()
        digest.update(hashlib.sha256(data).digest())
    return digest.hexdigest()
