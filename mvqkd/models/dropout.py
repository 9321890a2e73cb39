"""Dropout that is cheap on a CPU."""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By the size of an element in bytes."""

_LARGE = 2**17
"""Elements from which on a generator of our own saves time."""


class Dropout(nn.Module):
    """`nn.Dropout`, from 16 random bits an element when the input is on a CPU.

    torch's generator makes one draw per element there, which was a tenth of a small Conformer's
    training time; a 64-bit draw gives four. The mask is made and applied by arithmetic on integers,
    a fraction of the time of comparisons and booleans. p is met to 1/32768, the expectation to
    rounding.

    Args:
        p: probability of a zero.
        inplace: overwrite the input, and in the backward pass the gradient of the output; nothing
            else may need either of them.
    """

    def __init__(self, p: float, *, inplace: bool = False) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"dropout={p} must be in [0, 1)")
        self.p = p
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        """Any shape; zero with probability p and scaled by 1 / (1 - p) otherwise, in training."""
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.p, inplace=self.inplace)
        bits = _random_bits(x.numel()).view(x.shape)
        kept = 2**15 - round(self.p * 2**15)
        # Half of the 16-bit range, so that the difference does not overflow: its sign is the mask.
        mask = bits.bitwise_right_shift_(1).sub_(kept - 2**14).bitwise_right_shift_(15)
        dropped: Tensor = _Mask.apply(x, mask, 2**15 / kept, self.inplace)
        return dropped

    def extra_repr(self) -> str:
        return f"p={self.p}"


class _Mask(torch.autograd.Function):
    """x where an int16 mask is -1, else 0; scaled."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor, scale: float, inplace: bool) -> Tensor:
        ctx.save_for_backward(mask)
        ctx.scale, ctx.inplace = scale, inplace
        if inplace:
            ctx.mark_dirty(x)
        return _masked(x, mask, scale, inplace)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (mask,) = ctx.saved_tensors
        return _masked(grad, mask, ctx.scale, ctx.inplace), None, None, None


def _masked(x: Tensor, mask: Tensor, scale: float, inplace: bool) -> Tensor:
    integers = _INTEGERS[x.element_size()]
    bits, mask = x.view(integers), mask.to(integers)
    if inplace:
        bits.bitwise_and_(mask)
        return x.mul_(scale)
    return (bits & mask).view(x.dtype).mul_(scale)


def _random_bits(size: int) -> Tensor:
    """(size,) int16, uniform.

    Large ones are eight states each of many xorshift generators (Marsaglia 2003, section 3, shifts
    13, 7, 17) whose first states torch's generator draws, in a third of the time that it takes to
    draw all.
    """
    steps = 8 if size >= _LARGE else 1
    draws = torch.empty(steps, -(-size // (4 * steps)), dtype=torch.int64)
    draws[0].random_(-(2**63), None)
    shifted = torch.empty_like(draws[0])
    for state, after in itertools.pairwise(draws):
        torch.bitwise_left_shift(state, 13, out=shifted)
        torch.bitwise_xor(state, shifted, out=after)
        torch.bitwise_right_shift(after, 7, out=shifted)
        after ^= shifted.bitwise_and_(2**57 - 1)  # the shift repeats the sign
        torch.bitwise_left_shift(after, 17, out=shifted)
        after ^= shifted
    return draws.view(torch.int16).flatten()[:size]
