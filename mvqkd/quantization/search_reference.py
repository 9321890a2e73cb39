"""How the PyPI package `multi_quantization` chooses codes.

A linear guess, then passes that each propose changes of single codes with the others held, keep the
best few, join neighbouring codebooks' proposals and keep the best few again, until one proposal for
all codebooks is left.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_FRAMES = 512  # encoded at a time


def search_reference(
    x: Tensor, centers: Tensor, weight: Tensor, bias: Tensor, *, passes: int = 5
) -> Tensor:
    """Codes as the package finds them.

    Args:
        x: (T, D) frames, less their mean, float32.
        centers: (Q, K, D), Q a power of 2.
        weight, bias: (Q * K, D) and (Q * K,), of the linear guess.
        passes: its `refine_indexes_iters`.

    Returns:
        (T, Q) uint8, equal to the package's up to ties within rounding.
    """
    found = [torch.empty(0, len(centers), dtype=torch.long, device=x.device)]
    for part in x.split(_FRAMES):
        codes = F.linear(part, weight, bias).unflatten(1, centers.shape[:2]).argmax(dim=2)
        for _ in range(passes):
            codes = refine(part, codes, centers)
        found.append(codes)
    return torch.cat(found).to(torch.uint8)


def refine(x: Tensor, codes: Tensor, centers: Tensor) -> Tensor:
    """One pass of the package's `Quantizer._refine_indexes`.

    Args:
        x: frames (T, D).
        codes: (T, Q) int64, Q a power of 2.
        centers: (Q, K, D).

    Returns:
        (T, Q) int64.
    """
    if len(x) == 0:
        return codes
    num_codebooks, size, dim = centers.shape
    rows = centers.reshape(-1, dim)
    first_row = size * torch.arange(num_codebooks, device=x.device)
    current = rows[(codes + first_row).flatten()].view(len(x), num_codebooks, dim)
    error = current.sum(dim=1) - x
    rest = error[:, None] - current
    costs = torch.bmm(rest.transpose(0, 1), centers.transpose(1, 2)).mul_(2)
    costs += centers.square().sum(dim=2)[:, None]
    costs, kept = costs.topk(min(_kept(1, size), size), dim=2, largest=False)
    costs = costs.transpose(0, 1) + rest.square().sum(dim=2, keepdim=True)
    kept = kept.transpose(0, 1)
    # On a CPU, of so few frames at a time that their changes stay in the cache.
    step = max(1, (2**24 if x.is_cuda else 2**19) // (kept[0].numel() * dim))
    chosen = [
        _join(
            rows.index_select(0, (proposals + first_row[:, None]).flatten())
            .view(*proposals.shape, dim)
            .sub_(now[:, :, None]),
            cost,
            e.square().sum(dim=1),
            size,
        )
        for proposals, now, cost, e in zip(
            *(values.split(step) for values in (kept, current, costs, error)), strict=True
        )
    ]
    return kept.gather(2, torch.cat(chosen))[:, :, 0]


def _join(deltas: Tensor, costs: Tensor, before: Tensor, size: int) -> Tensor:
    """Which of its proposals each codebook should take, where the best are kept of pairs of
    codebooks, of pairs of such pairs, and so on.

    Args:
        deltas: (T, Q, P, D), the change that a proposal makes to the reconstruction.
        costs: (T, Q, P), the squared error if it is the only change.
        before: (T,), the squared error without a change.
        size: entries of a codebook.

    Returns:
        (T, Q, 1) int64, less than P.
    """
    num_frames, groups, _, dim = deltas.shape
    halves = []
    width = 1
    while groups > 1:
        groups, width, proposals = groups // 2, 2 * width, deltas.shape[2]
        halved = deltas.view(-1, 2, proposals, dim)
        pairs = torch.bmm(halved[:, 0], halved[:, 1].transpose(1, 2)).mul_(2)
        pairs = pairs.view(num_frames, groups, proposals, proposals)
        pairs += costs[:, 0::2, :, None]
        pairs += costs[:, 1::2, None]
        costs = pairs.flatten(2) - before[:, None, None]
        number = 1 if groups == 1 else min(_kept(width, size), proposals**2)
        costs, best = costs.topk(number, dim=2, largest=False)
        halves.append((best // proposals, best % proposals))
        if groups > 1:
            first = torch.arange(len(halved), device=best.device) * (2 * proposals)
            first = first.view(num_frames, groups, 1)
            rows = halved.view(-1, dim)
            deltas = rows.index_select(0, (halves[-1][0] + first).flatten())
            deltas += rows.index_select(0, (halves[-1][1] + first + proposals).flatten())
            deltas = deltas.view(*best.shape, dim)
    # Which proposals of its halves a proposal is made of, followed back from the only one left.
    chosen = torch.zeros(num_frames, 1, 1, dtype=torch.long, device=costs.device)
    for pair in reversed(halves):
        chosen = torch.cat([half.gather(2, chosen) for half in pair], dim=2).view(num_frames, -1, 1)
    return chosen


def _kept(width: int, size: int) -> int:
    """How many proposals of a group of `width` codebooks are kept."""
    kept = 8 if size <= 16 else 16
    while width >= 4:
        width //= 4
        kept *= 2
    return min(kept, 128)
