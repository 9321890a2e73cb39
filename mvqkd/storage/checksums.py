"""Checksums of arrays in HDF5 files: one of the small arrays and attributes together, verified when
a file is opened, and one of each block of the large ones, verified when the block is read."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

DIGEST = "digest"
"""Attribute that holds `digest_of` the rest."""
BLOCKS = "crc32"
"""Dataset that holds `block_checksums`."""


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
