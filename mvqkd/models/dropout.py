"""Dropout that is cheap on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Dropout(nn.Module):
    """`nn.Dropout`, from 16 random bits an element when the input is on a CPU.

    torch's generator makes one draw per element there, which was a tenth of a small Conformer's
    training time; a 64-bit draw gives four. p is met to 1/65536, the expectation to rounding.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"dropout={p} must be in [0, 1)")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Any shape; zero with probability p and scaled by 1 / (1 - p) otherwise, in training."""
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.p)
        draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        bits = draws.view(torch.int16)[: x.numel()].view(x.shape)
        dropped = round(self.p * 2**16)
        keep = (bits >= dropped - 2**15).to(x.dtype)
        return x * keep.mul_(2**16 / (2**16 - dropped))

    def extra_repr(self) -> str:
        return f"p={self.p}"
