"""Where frames to learn from come from: a tensor in memory, or anything that can be read a range at
a time, such as the files of `mvqkd.data.targets.embeddings.EmbeddingFrames`, larger than memory."""

from __future__ import annotations

from collections.abc import Iterator
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
        """See `Frames.read`."""
        return self._rows[begin:end]

    def describe(self, row: int) -> str:
        """See `Frames.describe`."""
        return f"frame {row}"


def as_frames(embeddings: Frames | Tensor | np.ndarray) -> Frames:
    """Wrap arrays in `TensorFrames`; other `Frames` are returned as they are.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(embeddings, (Tensor, np.ndarray)):
        return TensorFrames(embeddings)
    if not hasattr(embeddings, "read"):
        raise TypeError(
            f"embeddings must be one tensor or array (T, D), or Frames, not {type(embeddings)}: "
            "join those of several utterances, torch.cat(embeddings)"
        )
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
