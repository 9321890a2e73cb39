"""Relative attention over blocks of queries, and its gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mvqkd.models.masks import Block
from mvqkd.models.positions import relative_shift


def attend(
    by_content: Tensor,
    by_distance: Tensor,
    key: Tensor,
    value: Tensor,
    distances: Tensor,
    blocks: Sequence[Block],
    rows: Sequence[tuple[int, int]],
    dropout: float = 0.0,
) -> Tensor:
    """Softmax of content and distance scores, times the values.

    A gradient that is written by hand leaves out what autograd spends on slices of blocks and on
    the shift: tensors of zeros as large as the whole for each slice, and their sums.

    Args:
        by_content: (H, N, T, d), scaled queries for the scores with keys.
        by_distance: (H, N, T, d), scaled queries for the scores with distances.
        key: (H, N, S, d).
        value: (H, N, S, d).
        distances: (H, R, d), projected `relative_sinusoids`.
        rows: of `distances` that each block needs, see `distance_rows`.
        blocks: cover the T queries in order.
        dropout: probability that a weight is zero; the others are scaled by 1 / (1 - dropout).

    Returns:
        (H, N, T, d).
    """
    tensors = (by_content, by_distance, key.contiguous(), value.contiguous(), distances)
    if torch.jit.is_tracing() or torch.compiler.is_compiling() or not torch.is_grad_enabled():
        attended = [
            _attend_block(*tensors, *where, dropout)[0] for where in zip(blocks, rows, strict=True)
        ]
        out = attended[0] if len(attended) == 1 else torch.cat(attended, dim=1)
        return out.unflatten(0, (by_content.size(0), -1))
    with torch.autocast(key.device.type, enabled=False):
        result: Tensor = _Attend.apply(blocks, rows, dropout, *tensors)
    return result


def distance_rows(blocks: Sequence[Block]) -> list[tuple[int, int]]:
    """First and last (exclusive) row of `relative_sinusoids` that each block needs: from the
    distance of its last query and first key downwards."""
    num_queries = blocks[-1].queries[1]
    return [
        (num_queries - last + begin, num_queries - first + end)
        for (first, last), (begin, end), _ in blocks
    ]


def _attend_block(
    by_content: Tensor,
    by_distance: Tensor,
    key: Tensor,
    value: Tensor,
    distances: Tensor,
    block: Block,
    rows: tuple[int, int],
    dropout: float,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """(H * N, queries, d), the weights of the keys (H * N, queries, keys), and what dropout
    multiplies them with."""
    (first, last), (begin, end), bias = block
    largest, smallest = rows
    distances = distances[:, largest:smallest]
    scores = by_distance[:, :, first:last].flatten(1, 2) @ distances.transpose(1, 2)
    scores = scores.view(by_content.size(0), -1, last - first, smallest - largest)
    scores = relative_shift(scores, end - begin) + bias.to(scores.dtype)
    scores = torch.baddbmm(
        scores.flatten(0, 1),
        by_content[:, :, first:last].flatten(0, 1),
        key.flatten(0, 1)[:, begin:end].transpose(1, 2),
    )
    weights = scores.softmax(-1)
    values = value.flatten(0, 1)[:, begin:end]
    if not dropout:
        return weights @ values, weights, None
    kept = F.dropout(torch.ones_like(weights), dropout)
    return (weights * kept) @ values, weights, kept


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        blocks: Sequence[Block],
        rows: Sequence[tuple[int, int]],
        dropout: float,
        by_content: Tensor,
        by_distance: Tensor,
        key: Tensor,
        value: Tensor,
        distances: Tensor,
    ) -> Tensor:
        tensors = (by_content, by_distance, key.contiguous(), value.contiguous(), distances)
        out = torch.empty_like(by_content)
        saved = []
        for block, span in zip(blocks, rows, strict=True):
            first, last = block.queries
            attended, weights, kept = _attend_block(*tensors, block, span, dropout)
            out[:, :, first:last] = attended.view(*out.shape[:2], last - first, -1)
            saved += [weights] if kept is None else [weights, kept]
        ctx.blocks, ctx.rows, ctx.dropout = blocks, rows, dropout
        ctx.save_for_backward(*tensors, *saved)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        by_content, by_distance, key, value, distances, *saved = ctx.saved_tensors
        if ctx.dropout:
            weights_and_kept = list(zip(saved[::2], saved[1::2], strict=True))
        else:
            weights_and_kept = [(weights, None) for weights in saved]
        heads, batch, _, dim = by_content.shape
        grad_content, grad_distance = torch.empty_like(by_content), torch.empty_like(by_distance)
        grad_key, grad_value = torch.zeros_like(key), torch.zeros_like(value)
        grad_distances = torch.zeros_like(distances)
        keys, values = key.flatten(0, 1), value.flatten(0, 1)
        grad_keys, grad_values = grad_key.flatten(0, 1), grad_value.flatten(0, 1)
        for block, (largest, smallest), (weights, kept) in zip(
            ctx.blocks, ctx.rows, weights_and_kept, strict=True
        ):
            (first, last), (begin, end), _ = block
            here = grad[:, :, first:last].flatten(0, 1)
            dropped = weights if kept is None else weights * kept
            grad_values[:, begin:end] += dropped.transpose(1, 2) @ here
            scores = here @ values[:, begin:end].transpose(1, 2)
            if kept is not None:
                scores *= kept
            scores = torch._softmax_backward_data(scores, weights, -1, weights.dtype)
            content = by_content[:, :, first:last].flatten(0, 1)
            grad_keys[:, begin:end] += scores.transpose(1, 2) @ content
            grad_content[:, :, first:last] = (scores @ keys[:, begin:end]).view(
                heads, batch, last - first, dim
            )
            rows = scores.new_zeros(heads, batch, last - first, smallest - largest)
            relative_shift(rows, end - begin).copy_(scores.view(heads, batch, last - first, -1))
            rows = rows.flatten(1, 2)
            grad_distance[:, :, first:last] = (rows @ distances[:, largest:smallest]).view(
                heads, batch, last - first, dim
            )
            query = by_distance[:, :, first:last].flatten(1, 2)
            grad_distances[:, largest:smallest] += rows.transpose(1, 2) @ query
        return None, None, None, grad_content, grad_distance, grad_key, grad_value, grad_distances
