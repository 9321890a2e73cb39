"""Where frames to learn from come from: a tensor in memory, or files larger than memory."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

# Frames are read in blocks of consecutive rows, a pool of blocks at a time is shuffled.
BLOCK_FRAMES = 256
POOL_BLOCKS = 128


class Frames(Protocol):
    """Rows that can be read a range at a time."""

    num_frames: int
    dim: int

    def read(self, begin: int, end: int) -> Tensor:
        """Rows begin..end-1 as (end - begin, D), of any floating-point type."""
        ...

    def describe(self, row: int) -> str:
        """Name a row in an error message."""
        ...


class TensorFrames:
    """Frames (T, D) in memory; leading axes are flattened.

    Args:
        embeddings: tensor or array (..., D) of any floating-point type.
    """

    def __init__(self, embeddings: Tensor | np.ndarray) -> None:
        tensor = torch.as_tensor(embeddings)
        if tensor.ndim < 2 or not tensor.is_floating_point():
            raise ValueError(
                f"embeddings must be floating-point frames (T, D), not {tuple(tensor.shape)} "
                f"{tensor.dtype}"
            )
        self._rows = tensor.detach().flatten(0, -2)
        self.num_frames, self.dim = self._rows.shape

    def read(self, begin: int, end: int) -> Tensor:
        return self._rows[begin:end]

    def describe(self, row: int) -> str:
        return f"frame {row}"


class EmbeddingFile:
    """Frames of an HDF5 file of embeddings, read from disk as they are needed.

    The file holds `embeddings` (frames, D), `offsets` (utterances + 1,) and `ids`; rows
    offsets[i]..offsets[i+1]-1 belong to utterance ids[i]. Needs h5py.

    Args:
        path: the file.
        ids: use these utterances only, in the file's order. Default: all rows.

    Raises:
        ValueError: the file lacks a dataset, or an id of `ids`.
    """

    def __init__(self, path: str | Path, *, ids: Collection[str] | None = None) -> None:
        import h5py

        self.path = Path(path)
        self._file = h5py.File(self.path, "r")
        for name in ("embeddings", "offsets", "ids"):
            if name not in self._file:
                raise ValueError(f"{path}: not a file of embeddings, it has no dataset {name!r}")
        self._rows = self._file["embeddings"]
        self._ids: list[str] = [raw.decode() for raw in self._file["ids"][:]]
        offsets = self._file["offsets"][:].astype(np.int64)
        if len(offsets) != len(self._ids) + 1 or offsets[-1] != len(self._rows):
            raise ValueError(f"{path}: offsets do not fit the embeddings; the file is damaged")
        if ids is None:
            kept = np.arange(len(self._ids))
        else:
            wanted = set(ids)
            missing = wanted.difference(self._ids)
            if missing:
                raise ValueError(f"{path}: no utterance {min(missing)!r} ({len(missing)} missing)")
            kept = np.array([i for i, name in enumerate(self._ids) if name in wanted], dtype=int)
        self._utterances = kept
        self._begins = offsets[kept]  # rows in the file
        self._bounds = np.concatenate([[0], np.cumsum(offsets[kept + 1] - offsets[kept])])
        self.num_frames = int(self._bounds[-1])
        self.dim = int(self._rows.shape[1])

    def read(self, begin: int, end: int) -> Tensor:
        pieces = []
        while begin < end:
            i, offset = self._locate(begin)
            count = min(end, int(self._bounds[i + 1])) - begin
            at = int(self._begins[i]) + offset
            # Neighbours in the file are read in one piece.
            while begin + count < end and self._begins[i + 1] == at + count:
                i += 1
                count = min(end, int(self._bounds[i + 1])) - begin
            pieces.append(torch.from_numpy(self._rows[at : at + count]))
            begin += count
        return torch.cat(pieces) if pieces else torch.empty(0, self.dim)

    def describe(self, row: int) -> str:
        i, offset = self._locate(row)
        return f"{self.path}: frame {offset} of utterance {self._ids[self._utterances[i]]!r}"

    def _locate(self, row: int) -> tuple[int, int]:
        i = int(np.searchsorted(self._bounds, row, side="right")) - 1
        return i, row - int(self._bounds[i])


def as_frames(embeddings: Frames | Tensor | np.ndarray) -> Frames:
    """Wrap arrays in `TensorFrames`; anything else is returned as it is."""
    if isinstance(embeddings, (Tensor, np.ndarray)):
        return TensorFrames(embeddings)
    return embeddings


def read_checked(frames: Frames, begin: int, end: int) -> Tensor:
    """Read rows as float32.

    Raises:
        ValueError: a row is not finite; the message names it.
    """
    rows = frames.read(begin, end).float()
    finite = rows.isfinite().all(dim=1)
    if not finite.all():
        bad = begin + int((~finite).nonzero()[0])
        raise ValueError(f"{frames.describe(bad)} has NaN or infinite values")
    return rows


def sample(frames: Frames, count: int) -> Tensor:
    """About `count` frames (T, D) float32, in blocks spread evenly over all frames."""
    blocks = _blocks(frames)
    wanted = max(1, min(len(blocks), count // BLOCK_FRAMES))
    chosen = [blocks[i * len(blocks) // wanted] for i in range(wanted)]
    return torch.cat([read_checked(frames, *block) for block in chosen])


def shuffled_batches(frames: Frames, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Batches (batch_size, D) float32 without end, every frame once an epoch up to the last
    incomplete pool's remainder, which opens the next epoch.

    The order is a function of the seed and the number of frames alone, so that the same frames
    give the same batches from memory and from a file. Reads blocks of 256 consecutive frames and
    holds 32 768 frames.
    """
    generator = torch.Generator().manual_seed(seed)
    blocks = _blocks(frames)
    rest: list[Tensor] = []
    while True:
        order = torch.randperm(len(blocks), generator=generator).tolist()
        for first in range(0, len(order), POOL_BLOCKS):
            pool = rest + [
                read_checked(frames, *blocks[i]) for i in order[first : first + POOL_BLOCKS]
            ]
            rows = torch.cat(pool)
            rows = rows[torch.randperm(len(rows), generator=generator)]
            whole = len(rows) - len(rows) % batch_size
            yield from rows[:whole].split(batch_size)
            rest = [rows[whole:]]


def _blocks(frames: Frames) -> list[tuple[int, int]]:
    return [
        (begin, min(begin + BLOCK_FRAMES, frames.num_frames))
        for begin in range(0, frames.num_frames, BLOCK_FRAMES)
    ]
