"""A layer of the Conformer (Gulati et al. 2020, arXiv 2005.08100)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvqkd.models.attention import RelativeAttention
from mvqkd.models.convolution import ConvolutionModule
from mvqkd.models.dropout import Dropout
from mvqkd.models.masks import Block
from mvqkd.models.taps import Taps


class FeedForward(nn.Module):
    """LayerNorm, expansion, Swish, projection (section 2.3)."""

    def __init__(self, *, dim: int, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, hidden_dim)
        self.output = nn.Linear(hidden_dim, dim)
        self.dropout = Dropout(dropout, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, D) -> (N, T, D)."""
        return self.output(self.dropout(F.silu(self.expand(self.norm(x)))))


class ConformerLayer(nn.Module):
    """Half feed-forward, attention, convolution, half feed-forward, LayerNorm (equation 1)."""

    def __init__(
        self,
        *,
        dim: int,
        num_heads: int,
        feedforward_dim: int,
        conv_kernel: int,
        dropout: float,
        causal: bool,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.feedforward_in = FeedForward(dim=dim, hidden_dim=feedforward_dim, dropout=dropout)
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = RelativeAttention(dim=dim, num_heads=num_heads, dropout=attention_dropout)
        self.convolution_norm = nn.LayerNorm(dim)
        self.convolution = ConvolutionModule(dim=dim, kernel=conv_kernel, causal=causal)
        self.feedforward_out = FeedForward(dim=dim, hidden_dim=feedforward_dim, dropout=dropout)
        self.norm = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        blocks: Sequence[Block],
        valid: Tensor | None,
        cache: tuple[Tensor, Tensor] | None = None,
        *,
        taps: Taps | None = None,
        name: str = "",
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run one layer on (N, T, D).

        Args:
            cache: attention inputs (N, left_context, D) and convolution inputs
                (N, conv_kernel - 1, D) of the frames before x.

        Returns:
            (N, T, D) and the cache of the next chunk.
        """
        x = torch.add(x, self.dropout(self.feedforward_in(x)), alpha=0.5)
        memory = query = self.attention_norm(x)
        if cache is not None:
            memory = torch.cat([cache[0].to(query.dtype), query], dim=1)
        y = self.attention(query, memory, positions, blocks, taps=taps, name=name)
        x = x + self.dropout(y)
        y, convolved = self.convolution(
            self.convolution_norm(x), valid, None if cache is None else cache[1]
        )
        x = x + self.dropout(y)
        x = torch.add(x, self.dropout(self.feedforward_out(x)), alpha=0.5)
        return self.norm(x), (memory[:, x.size(1) :], convolved)
