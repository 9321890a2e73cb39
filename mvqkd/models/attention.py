"""Multi-head self-attention with the relative positions of Transformer-XL."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mvqkd.models.positions import relative_shift
from mvqkd.models.taps import Taps


class RelativeAttention(nn.Module):
    """Self-attention whose scores see content and distance (arXiv 1901.02860, section 3.3):

        score(i, j) = ((q_i + u) . k_j + (q_i + v) . W r_{i-j}) / sqrt(d)

    with one u and one v per head. Queries, keys and values have d = D / H channels.

    Args:
        dim: D.
        num_heads: H, must divide D.
    """

    def __init__(self, *, dim: int, num_heads: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"num_heads={num_heads} does not divide dim={dim}")
        self.num_heads = num_heads
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.position = nn.Linear(dim, dim, bias=False)
        self.content_bias = nn.Parameter(torch.zeros(num_heads, 1, dim // num_heads))
        self.position_bias = nn.Parameter(torch.zeros(num_heads, 1, dim // num_heads))
        self.output = nn.Linear(dim, dim)

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        positions: Tensor,
        mask: Tensor,
        *,
        taps: Taps | None = None,
        name: str = "",
    ) -> Tensor:
        """Attend from every frame of x to the frames of memory.

        Args:
            x: (N, T, D).
            memory: (N, S, D), of which x is the last T frames (S > T when streaming).
            positions: (T + S - 1, D) from `relative_sinusoids(T, S, D)`.
            mask: bool, broadcastable to (N, H, T, S); every row has a True.
            taps: gets `name`.query (N, H, T, d), `name`.key and `name`.value (N, H, S, d).

        Returns:
            (N, T, D).
        """
        heads = (self.num_heads, -1)
        query = self.query(x).unflatten(-1, heads).transpose(1, 2)
        key, value = (
            part.unflatten(-1, heads).transpose(1, 2)
            for part in self.key_value(memory).chunk(2, dim=-1)
        )
        position = self.position(positions).unflatten(-1, heads).transpose(0, 1)
        if taps is not None:
            for part, tensor in (("query", query), ("key", key), ("value", value)):
                taps.put(f"{name}.{part}", tensor)
        scale = 1.0 / math.sqrt(query.size(-1))
        content = ((query + self.content_bias) * scale) @ key.transpose(-1, -2)
        distance = ((query + self.position_bias) * scale) @ position.transpose(-1, -2)
        scores = content + relative_shift(distance, memory.size(1))
        weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
        return self.output((weights @ value).transpose(1, 2).flatten(2))
