"""How often codes occur, and what the frames that have a code add up to."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def code_counts(codes: Tensor, size: int) -> Tensor:
    """How often each entry occurs, (Q, K), in codes (T, Q)."""
    return torch.stack([torch.bincount(column.long(), minlength=size) for column in codes.T])


def code_entropy(counts: Tensor) -> Tensor:
    """Entropy (Q,) in bits of the distributions with these counts (Q, K)."""
    p = counts.double() / counts.sum(dim=1, keepdim=True)
    return -torch.special.xlogy(p, p).sum(dim=1) / math.log(2)


def sums_by_code(x: Tensor, codes: Tensor, size: int) -> Tensor:
    """What the rows of x (T, D) with each of the codes (T,) int64 add up to, (K, D); the same in
    every run."""
    if x.is_cuda:  # index_add_ adds in the order in which threads arrive there
        return F.one_hot(codes, size).to(x).T @ x
    return x.new_zeros(size, x.shape[1]).index_add_(0, codes, x)
