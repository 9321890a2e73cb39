"""Relative positions of Transformer-XL (Dai et al. 2019, arXiv 1901.02860, section 3.3)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def relative_sinusoids(num_queries: int, num_keys: int, dim: int, like: Tensor) -> Tensor:
    """Sinusoids R of every distance between a query and a key, from the largest down.

    The queries are the last `num_queries` of the `num_keys` positions, so distances (query minus
    key) run from num_keys - 1 down to -(num_queries - 1); one more row follows, which
    `relative_shift` needs and never selects.

    Args:
        dim: D, even: half sines, half cosines of D / 2 frequencies from 1 to 1/10000.
        like: the result has its device and dtype.

    Returns:
        (num_queries + num_keys, D).
    """
    distance = torch.arange(num_keys - 1, -num_queries - 1, -1, device=like.device)
    frequency = torch.exp(
        torch.arange(0, dim, 2, device=like.device).to(torch.float32) * (-math.log(10000.0) / dim)
    )
    angle = distance.to(torch.float32).unsqueeze(1) * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1).to(like.dtype)


def relative_shift(scores: Tensor, num_keys: int) -> Tensor:
    """Select from scores by distance those of each (query, key) pair; a view, nothing is copied.

    Row i, column j of the result is scores[:, :, i, num_queries - 1 - i + j]: one step to the left
    for every row further down, which is a constant stride through the flattened rows.

    Args:
        scores: (H, N, num_queries, num_queries + num_keys) in the order of `relative_sinusoids`,
            contiguous in the last two axes.

    Returns:
        (H, N, num_queries, num_keys).
    """
    # size() and view(): a traced graph keeps these lengths symbolic, unlike with unflatten().
    heads, batch, queries, distances = scores.size()
    first = queries - 1
    rows = scores.flatten(2)[..., first : first + queries * (distances - 1)]
    return rows.view(heads, batch, queries, distances - 1)[..., :num_keys]
