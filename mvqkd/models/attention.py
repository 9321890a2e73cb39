"""Multi-head self-attention with the relative positions of Transformer-XL."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mvqkd.models.attention_blocks import attend, distance_rows
from mvqkd.models.masks import Block
from mvqkd.models.taps import Taps


class RelativeAttention(nn.Module):
    """Self-attention whose scores see content and distance (arXiv 1901.02860, section 3.3):

        score(i, j) = ((q_i + u) . k_j + (q_i + v) . W r_{i-j}) / sqrt(d)

    with one u and one v per head. Queries, keys and values have d = D / H channels.

    Args:
        dim: D.
        num_heads: H, must divide D.
        dropout: of the weights of frames, in training.
    """

    def __init__(self, *, dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"num_heads={num_heads} does not divide dim={dim}")
        self.num_heads = num_heads
        self.dropout = dropout
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.position = nn.Linear(dim, dim, bias=False)
        self.content_bias = nn.Parameter(torch.zeros(num_heads, 1, 1, dim // num_heads))
        self.position_bias = nn.Parameter(torch.zeros(num_heads, 1, 1, dim // num_heads))
        self.output = nn.Linear(dim, dim)

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        positions: Tensor,
        blocks: Sequence[Block],
        *,
        taps: Taps | None = None,
        name: str = "",
    ) -> Tensor:
        """Attend from every frame of x to the frames of memory.

        Args:
            x: (N, T, D).
            memory: (N, S, D), of which x is the last T frames (S > T when streaming).
            positions: (T + S, D) from `relative_sinusoids(T, S, D)`.
            blocks: cover the T queries in order.
            taps: gets `name`.query (N, H, T, d), `name`.key and `name`.value (N, H, S, d).

        Returns:
            (N, T, D).
        """
        query = self._heads(self.query(x))
        key, value = map(self._heads, self.key_value(memory).chunk(2, dim=-1))
        if taps is not None:
            for part, tensor in (("query", query), ("key", key), ("value", value)):
                taps.put(f"{name}.{part}", tensor.transpose(0, 1))
        scale = 1.0 / math.sqrt(query.size(-1))
        by_content = ((query + self.content_bias) * scale).to(query.dtype)
        by_distance = ((query + self.position_bias) * scale).to(query.dtype)
        rows = distance_rows(blocks)
        if len(blocks) > 1:  # chunks need no more than the distances of their window
            skipped = min(first for first, _ in rows)
            positions = positions[skipped : max(last for _, last in rows)]
            rows = [(first - skipped, last - skipped) for first, last in rows]
        distances = self.position(positions).unflatten(-1, (self.num_heads, -1)).transpose(0, 1)
        dropout = self.dropout if self.training else 0.0
        out = attend(by_content, by_distance, key, value, distances, blocks, rows, dropout)
        return self.output(out.permute(1, 2, 0, 3).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        """(N, T, D) -> (H, N, T, d): heads first, as all utterances share a head's distances."""
        return x.unflatten(-1, (self.num_heads, -1)).permute(2, 0, 1, 3)
