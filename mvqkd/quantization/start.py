"""Where the fit begins: a product quantizer in a rotated space, so that all codebooks share the
work from the first step (Ge et al., Optimized Product Quantization, TPAMI 2014).

From random or residual starts the codebooks stay unequal, and every later step stalls earlier.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mvqkd.quantization.counts import sums_by_code

_KMEANS_STEPS = 4  # before the first rotation


def product_start(
    x: Tensor, num_codebooks: int, size: int, generator: torch.Generator, *, num_iters: int
) -> Tensor:
    """Centers of a product quantizer with a learned rotation.

    Args:
        x: (T, D) zero-mean frames, T >= size.
        num_codebooks: Q. With Q > D only the first D codebooks get a subspace; the others are
            zero and are left to what follows.
        size: K.
        generator: on the CPU, draws the first entries.
        num_iters: rounds of k-means step and rotation.

    Returns:
        centers (Q, K, D).
    """
    num_frames, dim = x.shape
    variances, rotation = torch.linalg.eigh(x.T @ x / num_frames)
    groups = allocate(variances.cpu(), min(num_codebooks, dim), bits=math.log2(size))
    first = torch.randperm(num_frames, generator=generator)[:size].to(x.device)
    y = x @ rotation
    entries = [y[first][:, group] for group in groups]
    for step in range(num_iters):
        rebuilt = torch.zeros_like(y)
        for q, group in enumerate(groups):
            part = y[:, group]
            costs = entries[q].square().sum(dim=1) - 2 * part @ entries[q].T
            nearest = costs.argmin(dim=1)
            counts = torch.bincount(nearest, minlength=size)[:, None]
            sums = sums_by_code(part, nearest, size)
            # An entry that nobody chose moves to some frame.
            spare = part[torch.randint(num_frames, (size,), generator=generator).to(x.device)]
            entries[q] = torch.where(counts > 0, sums / counts.clamp(min=1), spare)
            rebuilt[:, group] = entries[q][nearest]
        if step >= _KMEANS_STEPS:
            left, _, right = torch.linalg.svd(x.T @ rebuilt)
            rotation = left @ right
            y = x @ rotation
    centers = x.new_zeros(num_codebooks, size, dim)
    for q, group in enumerate(groups):
        centers[q] = entries[q] @ rotation[:, group].T
    return centers


def allocate(variances: Tensor, num_groups: int, *, bits: float) -> list[list[int]]:
    """Share dimensions out so that every group needs about the same number of bits.

    A dimension of variance v needs log2(v / level) / 2 bits where that is positive; the level is
    the one at which all dimensions together need `bits` per group (reverse water-filling, Cover
    and Thomas, Elements of Information Theory, section 10.3.3).

    Returns:
        the dimensions of each group, at most ceil(D / num_groups) each.
    """
    variances = variances.double().clamp(min=1e-12 * max(float(variances.max()), 1e-300))
    low, high = float(variances.min().log2()) - 2 * bits * num_groups, float(variances.max().log2())
    for _ in range(60):
        level = (low + high) / 2
        needed = 0.5 * (variances.log2() - level).clamp(min=0).sum()
        low, high = (level, high) if needed > bits * num_groups else (low, level)
    need = (0.5 * (variances.log2() - high).clamp(min=0)).tolist()
    capacity = math.ceil(len(variances) / num_groups)
    groups: list[list[int]] = [[] for _ in range(num_groups)]
    sums = [0.0] * num_groups
    for d in variances.argsort(descending=True, stable=True).tolist():
        free = [g for g in range(num_groups) if len(groups[g]) < capacity]
        g = min(free, key=lambda g: (sums[g], len(groups[g])))
        groups[g].append(d)
        sums[g] += need[d]
    return groups
