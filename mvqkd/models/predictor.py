"""Stateless predictor of a transducer (Ghodsi et al. 2020)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class StatelessPredictor(nn.Module):
    """Embedding and a convolution over the last `context_size` tokens.

    Negative ids stand for "no token" and embed to zero: those before the utterance (-1) as those
    of padding (-100). Training input is the blank and then the targets, so the first context is
    [-1, ..., -1, 0], which is also what sherpa-onnx feeds first.

    Args:
        vocab_size: V, with the blank.
        dim: D.
        context_size: tokens seen, the newest included.
    """

    def __init__(self, *, vocab_size: int, dim: int, context_size: int = 2) -> None:
        super().__init__()
        if context_size < 1:
            raise ValueError(f"context_size={context_size} must be positive")
        self.vocab_size = vocab_size
        self.dim = dim
        self.context_size = context_size
        self.embedding = nn.Embedding(vocab_size, dim)
        # Groups of four channels, as in icefall: a full convolution costs more and gains nothing.
        groups = dim // 4 if dim % 4 == 0 else 1
        self.conv = nn.Conv1d(dim, dim, context_size, groups=groups, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, U) int64 -> (N, U, D); position u sees the tokens u - context_size + 1 .. u."""
        return self._convolve(F.pad(tokens, (self.context_size - 1, 0), value=-1))

    def step(self, context: Tensor) -> Tensor:
        """(N, context_size) int64, the newest token last -> (N, D)."""
        return self._convolve(context).squeeze(1)

    def _convolve(self, tokens: Tensor) -> Tensor:
        # The mask is multiplied so that it survives tracing: Gather would take -1 for the last row.
        embedded = self.embedding(tokens.clamp(min=0)) * (tokens >= 0).unsqueeze(-1)
        return F.relu(self.conv(embedded.transpose(1, 2)).transpose(1, 2))
