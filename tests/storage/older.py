"""Stored files as an earlier version wrote them, without digests."""

from __future__ import annotations

from pathlib import Path

import h5py

from mvqkd.storage.hdf5 import BLOCKS, DIGEST


def without_digests(path: Path) -> None:
    """Take the digests out of an HDF5 file."""
    with h5py.File(path, "a") as file:
        del file.attrs[DIGEST], file[BLOCKS]
