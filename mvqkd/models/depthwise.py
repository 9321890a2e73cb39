"""Depthwise convolution along time, without padding."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# With 16 channels or fewer oneDNN (torch 2.11) never returns from some bfloat16 convolutions.
_FEWEST = 32
# Frames whose weight gradients are computed at once: inputs and gradients stay in a CPU's cache.
_FRAMES = 640


def depthwise(x: Tensor, conv: nn.Conv1d) -> Tensor:
    """Convolve every channel by itself, frames first and channels last.

    On a CPU torch's kernels for channels-last images, of up to 32 bits, compute output and
    gradients in a fraction of the time of the convolution of sequences and its backward pass.

    Args:
        x: (N, T, D).
        conv: of D groups with K taps, without padding.

    Returns:
        (N, T - K + 1, D).
    """
    exported = torch.jit.is_tracing() or torch.compiler.is_compiling()
    fast = x.device.type == "cpu" and x.element_size() <= 4 and conv.out_channels >= _FEWEST
    if exported or not fast:
        return conv(x.transpose(1, 2)).transpose(1, 2)
    assert conv.bias is not None
    weight, bias = conv.weight.to(x.dtype), conv.bias.to(x.dtype)
    with torch.autocast("cpu", enabled=False):
        if not torch.is_grad_enabled():
            return _convolve(x, weight, bias)
        out: Tensor = _Depthwise.apply(x, weight, bias)
    return out


def _convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(N, T, D) as images of height 1 and width T."""
    image = x.transpose(1, 2).unsqueeze(2)
    out = F.conv2d(image, weight.unsqueeze(2), bias, groups=x.size(-1))
    return out.squeeze(2).transpose(1, 2)


class _Depthwise(torch.autograd.Function):
    """`_convolve`, with its gradient of the weights computed from images of width 1: the kernel of
    those of height 1 is slow."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _convolve(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous()
        by_input = None
        if ctx.needs_input_grad[0]:
            by_input, _, _ = _backward(grad, x, weight, axis=2, wanted=(True, False, False))
            by_input = by_input.squeeze(2).transpose(1, 2)
        by_weight, by_bias = torch.zeros_like(weight), grad.flatten(0, 1).sum(0)
        size = max(1, _FRAMES // grad.size(1))
        for part_of_grad, part_of_x in zip(grad.split(size), x.split(size), strict=True):
            _, part, _ = _backward(
                part_of_grad, part_of_x, weight, axis=3, wanted=(False, True, False)
            )
            by_weight += part.squeeze(3)
        return by_input, by_weight, by_bias


def _backward(
    grad: Tensor, x: Tensor, weight: Tensor, *, axis: int, wanted: tuple[bool, bool, bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by input, weight and bias, as images with `axis` of size 1."""
    images = [t.transpose(1, 2).unsqueeze(axis) for t in (grad, x)]
    one, zero = [1, 1], [0, 0]
    return torch.ops.aten.convolution_backward(
        *images, weight.unsqueeze(axis), None, one, zero, one, False, zero, x.size(-1), wanted
    )
