"""How the PyPI package `multi_quantization` chooses codes.

A linear guess, then passes that each propose changes of single codes with the others held, keep the
best few, join neighbouring codebooks' proposals and keep the best few again, until one proposal for
all codebooks is left.
"""

from __future__ import annotations

import importlib.util

import torch
import torch.nn.functional as F
from torch import Tensor

_FRAMES = 512  # encoded at a time


def search_multi_quantization(
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
    compiled = not x.is_cuda and importlib.util.find_spec("numba") is not None
    join = _join_compiled if compiled else _join_torch
    base, before = rest.square().sum(dim=2), error.square().sum(dim=1)
    return join(centers, codes, costs, base, before)


def _widths(num_codebooks: int, size: int) -> list[int]:
    """How many proposals are kept of single codebooks, of pairs, of pairs of pairs, ..., of all."""
    widths = [min(_kept(1, size), size)]
    for level in range(1, num_codebooks.bit_length()):
        widths.append(min(_kept(2**level, size), widths[-1] ** 2))
    return [*widths[:-1], 1]


def _join_compiled(
    centers: Tensor, codes: Tensor, costs: Tensor, base: Tensor, before: Tensor
) -> Tensor:
    """`_join_torch` for a CPU that has numba."""
    from mvqkd.quantization.multi_quantization.search_numba import join

    joined = join(
        centers.detach().contiguous().numpy(),
        codes.contiguous().numpy(),
        costs.detach().numpy(),
        base.detach().numpy(),
        before.detach().numpy(),
        _widths(*centers.shape[:2]),
        torch.get_num_threads(),
    )
    return torch.from_numpy(joined)


def _join_torch(
    centers: Tensor, codes: Tensor, costs: Tensor, base: Tensor, before: Tensor
) -> Tensor:
    """Change codes, where the best changes are kept of single codebooks, of pairs of them, of pairs
    of such pairs, and so on.

    Args:
        centers: (Q, K, D), Q a power of 2.
        codes: (T, Q) int64.
        costs: (Q, T, K), the squared error with one code changed, less `base`.
        base: (T, Q).
        before: (T,), the squared error without a change.

    Returns:
        (T, Q) int64.
    """
    num_codebooks, size, dim = centers.shape
    widths = _widths(num_codebooks, size)
    costs, kept = costs.topk(widths[0], dim=2, largest=False)
    costs, kept = costs.transpose(0, 1) + base[:, :, None], kept.transpose(0, 1)
    rows = centers.reshape(-1, dim)
    first_row = size * torch.arange(num_codebooks, device=codes.device)
    current = rows[(codes + first_row).flatten()].view(len(codes), num_codebooks, dim)
    # On a CPU, of so few frames at a time that their changes stay in the cache.
    step = max(1, (2**24 if codes.is_cuda else 2**19) // (kept[0].numel() * dim))
    chosen = [
        _join(
            rows.index_select(0, (proposals + first_row[:, None]).flatten())
            .view(*proposals.shape, dim)
            .sub_(now[:, :, None]),
            cost,
            error,
            widths,
        )
        for proposals, now, cost, error in zip(
            *(values.split(step) for values in (kept, current, costs, before)), strict=True
        )
    ]
    return kept.gather(2, torch.cat(chosen))[:, :, 0]


def _join(deltas: Tensor, costs: Tensor, before: Tensor, widths: list[int]) -> Tensor:
    """Which of its proposals each codebook should take, (T, Q, 1) int64 less than P.

    Args:
        deltas: (T, Q, P, D), the change that a proposal makes to the reconstruction.
        costs: (T, Q, P), the squared error if it is the only change.
        before: (T,), the squared error without a change.
        widths: how many proposals are kept of single codebooks, of pairs, and so on.
    """
    num_frames, groups, _, dim = deltas.shape
    halves = []
    for number in widths[1:]:
        groups, proposals = groups // 2, deltas.shape[2]
        halved = deltas.view(-1, 2, proposals, dim)
        pairs = torch.bmm(halved[:, 0], halved[:, 1].transpose(1, 2)).mul_(2)
        pairs = pairs.view(num_frames, groups, proposals, proposals)
        pairs += costs[:, 0::2, :, None]
        pairs += costs[:, 1::2, None]
        costs = pairs.flatten(2) - before[:, None, None]
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
