"""Which tokens to consider in each frame (Kuang et al. 2022, arXiv 2206.13236, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from mvqkd.losses.lattice import Topology


def sufficient_range(
    prune_range: int, lens: Tensor, token_lens: Tensor, num_positions: int, topology: Topology
) -> int:
    """The prune range to use for a batch: normally the one asked for.

    It is cut to the lattice's U + 1 positions. In the regular topology it is widened when an
    utterance has so many tokens in so few frames that windows moving by ``prune_range - 1`` a
    frame could not reach the last token, and every path would be pruned.

    Raises:
        ValueError: if ``prune_range`` is below 2: no token could be emitted within a window.
    """
    if prune_range < 2:
        raise ValueError(f"prune_range must be at least 2, not {prune_range}")
    if topology == "regular" and lens.numel():
        steepest = int(((token_lens - 1) // lens.clamp(min=1)).max()) + 2
        prune_range = max(prune_range, steepest)
    return min(prune_range, num_positions)


def pruning_starts(
    symbol_occupancy: Tensor,
    blank_occupancy: Tensor,
    lens: Tensor,
    token_lens: Tensor,
    *,
    prune_range: int,
    topology: Topology = "regular",
) -> Tensor:
    """First position of each frame's window of ``prune_range`` positions.

    Each frame's window is the one that keeps most of the probability that goes through the frame.
    (With the modified topology k2 does not count the paths that leave the frame by a symbol.)
    Then windows are moved so that they start at 0, never go back, end with the last token in the
    last frame, and advance by less than ``prune_range`` (regular topology) or by at most 1
    (modified) from frame to frame, so that at least one path stays within them.

    Args:
        symbol_occupancy: (N, T, U), blank_occupancy: (N, T, U + 1), lens: (N,), token_lens: (N,):
            see :func:`mvqkd.losses.lattice.lattice_log_likelihood`.
        prune_range: S, see :func:`sufficient_range`.

    Returns:
        (N, T) int64 between 0 and U + 1 - S.
    """
    num_frames, num_positions = blank_occupancy.shape[1:]
    num_starts = num_positions - prune_range + 1
    leaving = blank_occupancy
    if topology == "modified":  # by a symbol, too
        leaving = leaving + torch.nn.functional.pad(symbol_occupancy, (0, 1))
    # Kept are the paths that leave the frame within the window, ...
    kept = sum(
        (leaving[:, :, i : i + num_starts] for i in range(1, prune_range)),
        start=leaving[:, :, :num_starts].clone(),
    )
    if topology == "regular":  # ... but not those that came into it by a symbol of this frame.
        kept[:, :, 1:] -= symbol_occupancy[:, :, : num_starts - 1]
    starts = kept.argmax(dim=2)

    frames = torch.arange(num_frames, device=starts.device)
    last_start = (token_lens - prune_range + 1).clamp(min=0)
    starts = torch.where(frames < lens[:, None] - 1, starts, last_start[:, None])
    starts = _lower_to_nondecreasing(starts)
    # Advancing by at most `step` means that `step * t - start` does not decrease.
    step = 1 if topology == "modified" else prune_range - 1
    slack = _lower_to_nondecreasing(step * frames - starts).clamp(min=0)
    return step * frames - slack


def _lower_to_nondecreasing(values: Tensor) -> Tensor:
    """(N, T) -> the largest non-decreasing sequences that are nowhere above ``values``."""
    if not values.shape[1]:
        return values
    return values.flip(1).cummin(dim=1).values.flip(1)
