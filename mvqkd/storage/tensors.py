"""Files of tensors and plain values: zip archives of `torch.save`, whose comment is a digest of all
before it. torch itself verifies nothing, and takes a flipped bit for a weight."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

from mvqkd.errors import UserError
from mvqkd.storage.files import atomic_path

_MARK = b"mvqkd sha256 "
_COMMENT = len(_MARK) + 64
_END = 22  # bytes of an archive's end before its comment, whose length is in the last two
_BLOCK = 2**20
_SOMETHING_ELSE = ", or is no file of tensors and plain values"


def save_tensors(path: str | Path, value: Any) -> None:
    """Write tensors and plain values, whole or not at all; the same values are the same bytes."""
    import torch  # not above: files are verified without it

    # Given an open file, torch puts no file name into the archive.
    with atomic_path(path) as partial, open(partial, "w+b") as file:
        torch.save(value, file)
        # A zip archive ends with the length of its comment, and the comment.
        file.seek(-2, 2)
        file.write(_COMMENT.to_bytes(2, "little"))
        file.write(_MARK + _digest(file, file.tell()).encode())


def load_tensors(
    path: str | Path,
    *,
    remedy: str | None = None,
    step: str | None = None,
    mmap: bool = False,
) -> Any:
    """Read what `torch.save` wrote, to the CPU, after a look at its checksums. Objects other than
    tensors and plain values are refused, as to load them is to run code.

    Args:
        path: the file.
        remedy, step: of the error, see `UserError`.
        mmap: read tensors when they are used; the file must not change meanwhile.

    Raises:
        UserError: the file is missing, damaged or something else.
    """
    import torch

    verify_tensors(path, remedy=remedy, step=step, legacy=True)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # bytes of anything end in errors of any kind
        # Not in torch's words, which advise to run what is in the file.
        problem = f"{path} is damaged{_SOMETHING_ELSE}"
        raise UserError(problem, remedy=remedy, step=step) from error


def verify_tensors(
    path: str | Path, *, remedy: str | None = None, step: str | None = None, legacy: bool = False
) -> None:
    """Compare a file of tensors with its digest; it is read once, and not loaded. Of a file without
    one, written by others or by an earlier version, the checksums of the records are verified.

    Args:
        path: the file.
        remedy, step: of the error, see `UserError`.
        legacy: take a file that is no archive for torch's format before 1.6, without checksums.

    Raises:
        UserError: the file is missing or damaged.
    """
    if not Path(path).is_file():
        raise UserError(f"{path} is missing", remedy=remedy, step=step)
    try:
        with open(path, "rb") as file:
            wrong = _wrong(file, legacy)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}", remedy=remedy, step=step) from error
    if wrong:
        raise UserError(f"{path} is damaged{wrong}", remedy=remedy, step=step)


def _wrong(file: BinaryIO, legacy: bool) -> str | None:
    """What is wrong with a file, if anything is."""
    size = file.seek(0, 2)
    file.seek(max(0, size - _COMMENT - _END))
    tail = file.read()
    if tail[_END:].startswith(_MARK):
        digest = _digest(file, size - _COMMENT).encode()
        return None if tail[_END:] == _MARK + digest else ": its contents are not what was written"
    end = tail.rfind(b"PK\5\6")
    length = int.from_bytes(tail[end + _END - 2 : end + _END], "little")
    if end >= 0 and end + _END + length > len(tail):
        return ": it is truncated"
    file.seek(0)
    if file.read(4) != b"PK\3\4":
        return None if legacy else _SOMETHING_ELSE
    try:
        with zipfile.ZipFile(file) as archive:
            # `torch.serialization.set_crc32_options(False)` leaves them zero.
            checked = any(record.CRC for record in archive.infolist())
            bad = archive.testzip() if checked else None
    except Exception:  # zipfile raises many kinds on damaged bytes
        return _SOMETHING_ELSE
    return f": its record {bad} is not what was written" if bad else None


def _digest(file: BinaryIO, size: int) -> str:
    """SHA-256 of the first `size` bytes; leaves the file after them."""
    digest = hashlib.sha256()
    file.seek(0)
    while size > 0 and (block := file.read(min(size, _BLOCK))):
        digest.update(block)
        size -= len(block)
    return digest.hexdigest()
