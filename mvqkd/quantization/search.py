"""Finding the codes of a frame: which entry of every codebook, so that their sum is near the frame.

The squared error of codes i_1..i_Q is, up to |x|^2 and with the codebooks' entries c[q, k],

    sum_q unary[q, i_q] + sum_{p<q} pairwise[p, i_p, q, i_q]
    unary[q, k] = |c[q, k]|^2 - 2 x.c[q, k],    pairwise[p, j, q, k] = 2 c[p, j].c[q, k],

so that after one matrix product per frame nothing depends on the dimension. A beam over the
codebooks finds a first set of hypotheses; each further sweep over the codebooks exchanges one
code at a time in all hypotheses and keeps the best ones (with a beam of 1 this is iterated
conditional modes, ICM). A sweep never makes the best hypothesis worse.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor


def unary_costs(x: Tensor, centers: Tensor) -> Tensor:
    """Costs of single codes (T, Q, K), for frames x (T, D) less their mean, centers (Q, K, D)."""
    flat = centers.flatten(0, 1)
    costs = torch.addmm(flat.square().sum(dim=1), x, flat.T, alpha=-2)
    return costs.unflatten(1, centers.shape[:2])


def pairwise_costs(centers: Tensor) -> Tensor:
    """Costs of pairs of codes, (Q, K, Q, K), for centers (Q, K, D)."""
    num_codebooks, size, _ = centers.shape
    flat = centers.flatten(0, 1)
    return (2 * flat @ flat.T).view(num_codebooks, size, num_codebooks, size)


def default_effort(num_codebooks: int) -> tuple[int, int]:
    """Default beam size and sweeps of the search with this number of codebooks.

    The more codebooks, the more sums lie near a frame and the more a search can miss: 16 hypotheses
    and 2 sweeps take 0.2, 0.9 and 1.8 % off the error of 8 and 1 at 4, 8 and 16 bytes of Whisper
    tiny.en ("thorough search" in benchmarks/README.md), for two and a half times as much work.
    """
    return (16, 2) if num_codebooks > 16 else (8, 1)


def search(unary: Tensor, pairwise: Tensor, *, beam_size: int, sweeps: int) -> Tensor:
    """Find codes of low cost.

    Args:
        unary: (T, Q, K) float32, from `unary_costs`.
        pairwise: (Q, K, Q, K) float32, from `pairwise_costs`.
        beam_size: hypotheses kept for every frame.
        sweeps: passes over the codebooks after the first one.

    Returns:
        (T, Q) uint8. On a CPU with numba installed a compiled loop does the work, otherwise torch;
        up to rounding they find the same codes.

    Raises:
        ValueError: no hypotheses, or a negative number of sweeps.
    """
    if beam_size < 1 or sweeps < 0:
        raise ValueError(f"beam_size={beam_size} must be positive and sweeps={sweeps} not negative")
    if unary.device.type == "cpu" and importlib.util.find_spec("numba") is not None:
        from mvqkd.quantization.search_numba import search as search_compiled

        codes = search_compiled(
            unary.numpy(), pairwise.numpy(), beam_size, sweeps, torch.get_num_threads()
        )
        return torch.from_numpy(codes)
    return search_torch(unary, pairwise, beam_size=beam_size, sweeps=sweeps)


def search_torch(unary: Tensor, pairwise: Tensor, *, beam_size: int, sweeps: int) -> Tensor:
    """`search` in torch operations, for any device."""
    num_frames, num_codebooks, size = unary.shape
    frames = torch.arange(num_frames, device=unary.device)[:, None]
    codes = unary.new_zeros(num_frames, 1, num_codebooks, dtype=torch.long)  # (T, B, Q)
    costs = unary.new_zeros(num_frames, 1)  # (T, B)
    for step in range((1 + sweeps) * num_codebooks):
        q = step % num_codebooks
        first = step < num_codebooks
        rows = unary[:, None, q].expand(-1, codes.shape[1], -1).clone()  # (T, B, K)
        for p in range(q if first else num_codebooks):
            if p != q:
                rows += pairwise[p, :, q][codes[:, :, p]]
        if not first:
            costs = costs - rows.gather(2, codes[:, :, q, None]).squeeze(2)
            costs = costs.masked_fill(_twins(codes, q), torch.inf)
        children = (costs[:, :, None] + rows).flatten(1)
        costs, best = children.topk(min(beam_size, children.shape[1]), dim=1, largest=False)
        codes = codes[frames, best // size]
        codes[:, :, q] = best % size
    return codes[:, 0].to(torch.uint8)


def _twins(codes: Tensor, q: int) -> Tensor:
    """Hypotheses (T, B) that differ from an earlier one in codebook q only."""
    same = codes[:, :, None] == codes[:, None]  # (T, B, B, Q)
    same[..., q] = True
    return same.all(dim=3).tril(-1).any(dim=2)
