"""Attention relations of a teacher's layer as targets (MiniLMv2: Wang et al. 2021, arXiv
2012.15828), as auxiliary non-streaming layers use them (Shim et al. 2023, arXiv 2308.16415)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mvqkd.models.masks import valid_frames

_CPU_BLOCK = 2**20  # for its caches
_GPU_BLOCK = 2**25  # for its launches


def relation_loss(
    student: Tensor, teacher: Tensor, lens: Tensor, *, block: int | None = None
) -> Tensor:
    """KL(teacher || student) between relations of the queries, the keys or the values of a layer,
    summed over frames and averaged over heads:

        R_at = softmax_k(x_at . x_ak / sqrt(d)),    L = 1/A sum_a sum_t KL(R_at teacher || student)

    Relations are of the valid frames of an utterance. The maps of T x T frames are computed in
    blocks of rows, the gradient together with the loss, so that none is kept: what is saved for
    the backward pass has the size of `student`.

    Args:
        student: (N, A, T, d); anything after an utterance's end.
        teacher: (N, A, T, e); its gradient is not computed.
        lens: (N,) int64 valid frames.
        block: elements of a map that are held at a time, about; None: as the device likes it.

    Returns:
        (N,) losses in nats, float32 (float64 if `student` is).

    Raises:
        ValueError: other numbers of heads or frames, see `regroup_heads`.
    """
    if student.shape[:3] != teacher.shape[:3]:
        raise ValueError(
            f"relations of {tuple(student.shape[:3])} and {tuple(teacher.shape[:3])} utterances, "
            "heads and frames cannot be compared"
        )
    if block is None:
        block = _CPU_BLOCK if student.device.type == "cpu" else _GPU_BLOCK
    differentiate = torch.is_grad_enabled() and student.requires_grad
    losses: Tensor = _RelationLoss.apply(student, teacher.detach(), lens, block, differentiate)
    return losses


def regroup_heads(x: Tensor, num_heads: int) -> Tensor:
    """(N, H, T, d) -> (N, num_heads, T, H d / num_heads): heads side by side, divided anew, so that
    relations of models with different numbers of heads compare (MiniLMv2's relation heads).

    Raises:
        ValueError: num_heads does not divide H d.
    """
    if x.size(1) == num_heads:
        return x
    width = x.size(1) * x.size(3)
    if width % num_heads:
        raise ValueError(f"{num_heads} heads do not divide {width} channels")
    return x.transpose(1, 2).flatten(2).unflatten(2, (num_heads, -1)).transpose(1, 2)


class _RelationLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, student: Tensor, teacher: Tensor, lens: Tensor, block: int, differentiate: bool
    ) -> Tensor:
        dtype = torch.promote_types(student.dtype, torch.float32)
        num_heads, num_frames, width = student.shape[1:]
        valid = valid_frames(lens, num_frames)
        # Finite, so that an utterance without frames gives no NaN.
        bias = torch.zeros(valid.shape, dtype=dtype, device=valid.device)
        bias.masked_fill_(~valid, torch.finfo(dtype).min / 4)
        bias = bias.repeat_interleave(num_heads, 0).unsqueeze(1)
        with torch.autocast(student.device.type, enabled=False):
            x, y = (_scaled(z.to(dtype), valid) for z in (student, teacher))
            grad = torch.zeros_like(x)
            losses = x.new_zeros(len(x))
            rows = max(1, block // max(1, len(x) * num_frames))
            for first in range(0, num_frames, rows):
                some = slice(first, first + rows)
                found, wanted = _log_relations(x, some, bias), _log_relations(y, some, bias)
                shares = wanted.exp()
                # A padded frame is zero on both sides: its relations are equal, and count nothing.
                losses += wanted.sub_(found).mul_(shares).sum((1, 2))
                if differentiate:
                    # Of the scores x_t . x_k: both frames of a pair get it.
                    of_scores = found.exp_().sub_(shares)
                    grad[:, some].baddbmm_(of_scores, x)
                    grad.baddbmm_(of_scores.transpose(1, 2), x[:, some])
        losses = losses.view(-1, num_heads).mean(1)
        grad = grad.mul_(width**-0.25 / num_heads).view(student.shape)
        ctx.dtype = student.dtype
        ctx.save_for_backward(grad)
        return losses

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_losses: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = ctx.saved_tensors
        scaled = grad * grad_losses.to(grad.dtype)[:, None, None, None]
        return scaled.to(ctx.dtype), None, None, None, None


def _scaled(x: Tensor, valid: Tensor) -> Tensor:
    """(N, A, T, d) -> (N A, T, d), zero in the padding, so that products are divided by sqrt(d)."""
    return (x.masked_fill(~valid[:, None, :, None], 0.0) * x.size(3) ** -0.25).flatten(0, 1)


def _log_relations(x: Tensor, rows: slice, bias: Tensor) -> Tensor:
    """(N A, T, d) -> (N A, rows, T) logarithms of the relations of some frames."""
    return torch.baddbmm(bias, x[:, rows], x.transpose(1, 2)).log_softmax(-1)
