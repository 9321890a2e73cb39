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
_BLOCK = 2**20


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

    verify_tensors(path, remedy=remedy, step=step)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # bytes of anything end in errors of any kind
        # Not in torch's words, which advise to run what is in the file.
        raise UserError(
            f"{path} is damaged, or is no file of tensors and plain values",
            remedy=remedy,
            step=step,
        ) from error


def verify_tensors(path: str | Path, *, remedy: str | None = None, step: str | None = None) -> None:
    """Compare a file of tensors with its digest; it is read once, and not loaded. Of a file without
    one, written by others or by an earlier version, the checksums of the records are verified.

    Raises:
        UserError: the file is missing or damaged.
    """
    if not Path(path).is_file():
        raise UserError(f"{path} is missing", remedy=remedy, step=step)
    try:
        with open(path, "rb") as file:
            wrong = _wrong(file)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}", remedy=remedy, step=step) from error
    if wrong:
        raise UserError(f"{path} is damaged{wrong}", remedy=remedy, step=step)


def _wrong(file: BinaryIO) -> str | None:
    """What is wrong with a file, if anything is."""
    size = file.seek(0, 2)
    if size > _COMMENT:
        file.seek(-_COMMENT, 2)
        comment = file.read()
        if comment.startswith(_MARK):
            digest = _digest(file, size - _COMMENT).encode()
            return None if comment == _MARK + digest else ": its contents are not what was written"
    file.seek(0)
    if file.read(4) != b"PK\3\4":  # torch's format before 1.6, or something else
        return None
    try:
        with zipfile.ZipFile(file) as archive:
            # `torch.serialization.set_crc32_options(False)` leaves them zero.
            checked = any(record.CRC for record in archive.infolist())
            bad = archive.testzip() if checked else None
    except Exception:  # zipfile raises many kinds on damaged bytes
        return ", or is no file of tensors and plain values"
    return f": its record {bad} is not what was written" if bad else None


def _digest(file: BinaryIO, size: int) -> str:
    """SHA-256 of the first `size` bytes; leaves the file after them."""
    digest = hashlib.sha256()
    file.seek(0)
    while size > 0 and (block := file.read(min(size, _BLOCK))):
        digest.update(block)
        size -= len(block)
    return digest.hexdigest()
