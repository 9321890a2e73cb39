"""How often codes occur."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def code_counts(codes: Tensor, size: int) -> Tensor:
    """How often each entry occurs, (Q, K), in codes (T, Q)."""
    return torch.stack([torch.bincount(column.long(), minlength=size) for column in codes.T])


def code_entropy(counts: Tensor) -> Tensor:
    """Entropy (Q,) in bits of the distributions with these counts (Q, K)."""
    p = counts.double() / counts.sum(dim=1, keepdim=True)
    return -torch.special.xlogy(p, p).sum(dim=1) / math.log(2)
