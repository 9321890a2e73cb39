"""The cells of a transducer's lattice that the pruned loss keeps."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Band(NamedTuple):
    """Cells of the lattice that are kept, one row for each valid frame of the batch."""

    utterances: Tensor
    """(R,) utterance of each row."""
    frames: Tensor
    """(R,) frame of each row."""
    positions: Tensor
    """(R, S) tokens emitted so far in each cell."""


def make_band(starts: Tensor, lens: Tensor, prune_range: int) -> Band:
    """The cells of windows of ``prune_range`` positions that begin at ``starts`` (N, T)."""
    frames = torch.arange(starts.shape[1], device=starts.device)
    utterance, frame = (frames < lens[:, None]).nonzero(as_tuple=True)
    offsets = torch.arange(prune_range, device=starts.device)
    return Band(utterance, frame, starts[utterance, frame][:, None] + offsets)
