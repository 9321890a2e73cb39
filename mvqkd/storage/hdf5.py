"""HDF5 files, and the checksums of what is in them: one of the small arrays and attributes
together, verified when a file is opened, and one of each block of the large ones, verified when the
block is read."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mvqkd.storage.files import atomic_path

DIGEST = "digest"
"""Attribute that holds `digest_of` the rest."""
BLOCKS = "crc32"
"""Dataset that holds `block_checksums`."""


_HEADERS = 2**20
"""Bytes that may be needed beside those of arrays."""


@contextmanager
def create_hdf5(path: str | Path, size: int) -> Iterator[h5py.File]:
    """Yield a file to write, which appears under its name when the body ends.

    HDF5 crashes when it has no room to close a file. So a full disk is looked for beforehand, and
    room for the end is kept until then.

    Args:
        path: of the file.
        size: bytes of its arrays, about.

    Raises:
        UserError: there is no room, or as of `atomic_path`.
    """
    with atomic_path(path) as partial:
        with open(partial, "wb") as trial:
            _take_room(trial, size + size // 16 + 2 * _HEADERS)
        with (
            h5py.File(partial, "w") as file,
            TemporaryFile(dir=partial.parent) as kept,  # closed before the other
        ):
            _take_room(kept, _HEADERS)
            yield file


def _take_room(file: IO[bytes], size: int) -> None:
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # what the file system cannot do
            raise


def digest_of(attributes: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 of attributes (strings, numbers, lists of them) and of arrays with their types and
    shapes."""
    digest = hashlib.sha256(json.dumps(dict(attributes), sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def block_checksum(block: NDArray[Any]) -> int:
    """CRC-32 of an array's bytes."""
    return zlib.crc32(np.ascontiguousarray(block).view(np.uint8).reshape(-1).data)


def block_checksums(rows: NDArray[Any], bounds: Sequence[int] | NDArray[np.int64]) -> NDArray[Any]:
    """(N,) uint32 of the N blocks of rows between N + 1 bounds."""
    return np.array([block_checksum(rows[a:b]) for a, b in pairwise(bounds)], dtype=np.uint32)
