"""A non-streaming branch on a layer of a streaming encoder (Shim, Lee, Chang and Hwang 2023, arXiv
2308.16415), which serves training alone."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mvqkd.models.attention import RelativeAttention
from mvqkd.models.conformer_layer import FeedForward
from mvqkd.models.dropout import Dropout
from mvqkd.models.masks import gap_blocks, valid_frames
from mvqkd.models.positions import relative_sinusoids
from mvqkd.models.taps import Taps


class BranchOutput(NamedTuple):
    """What a branch makes of a layer; what is in the padding has no meaning."""

    out: Tensor
    """z (N, T, D) of the Transformer layer."""
    future: Tensor | None
    """r (N, T, D), predicted from z up to the same frame; None without prediction."""
    taps: Taps
    """`attention.query`, `attention.key` and `attention.value` (N, H, T, d)."""


class ProjectionBranch(nn.Module):
    """A projection to the teacher's width and nothing else: the branch of layer-wise distillation
    without auxiliary layers, which theirs is compared with.

    Args:
        input_dim: width of the student's layer.
        dim: D, the teacher's width.
    """

    predicts = False

    def __init__(self, input_dim: int, dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(input_dim, dim)

    def forward(self, x: Tensor, lens: Tensor) -> BranchOutput:
        """(N, T, input_dim), of which lens (N,) frames are valid; without taps."""
        x = x.masked_fill(~valid_frames(lens, x.size(1)).unsqueeze(2), 0.0)
        return BranchOutput(self.project(x), None, Taps(()))


class AuxiliaryBranch(nn.Module):
    """Projection to the teacher's width, one Transformer layer that attends to the whole utterance,
    and a unidirectional LSTM on top that predicts the future.

    So a layer of a streaming student, which lacks the future, need not resemble a layer that knows
    it: the branch brings the context in. The paper leaves the kind of Transformer layer open. Here
    it normalizes before attention and feed-forward module (pre-norm) and has the relative positions
    of our Conformer. As in APC (arXiv 1904.03240) a linear layer follows the LSTM, whose own
    outputs are within -1 and 1, unlike a teacher's.

    Args:
        input_dim: width of the student's layer.
        dim: D, the teacher's width, even.
        num_heads: H, must divide D.
        feedforward_dim: inner width of the feed-forward module.
        dropout: of both residual branches and inside of the feed-forward module.
        gap: frame t does not attend to t + 1 ... t + gap, the answer to the prediction.
        predicts: whether there is an LSTM.

    Raises:
        ValueError: D is odd or not a multiple of H.
    """

    def __init__(
        self,
        *,
        input_dim: int,
        dim: int,
        num_heads: int,
        feedforward_dim: int,
        dropout: float = 0.1,
        gap: int = 0,
        predicts: bool = True,
    ) -> None:
        super().__init__()
        if dim % 2:
            raise ValueError(f"dim={dim} must be even: half of the positions' sinusoids are sines")
        self.dim = dim
        self.gap = gap
        self.predicts = predicts
        self.project = nn.Linear(input_dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.attention = RelativeAttention(dim=dim, num_heads=num_heads)
        self.feedforward = FeedForward(dim=dim, hidden_dim=feedforward_dim, dropout=dropout)
        self.dropout = Dropout(dropout)
        self.lstm = nn.LSTM(dim, dim, batch_first=True) if predicts else None
        self.predict = nn.Linear(dim, dim) if predicts else None

    def forward(self, x: Tensor, lens: Tensor) -> BranchOutput:
        """(N, T, input_dim), of which lens (N,) frames are valid."""
        num_frames = x.size(1)
        valid = valid_frames(lens, num_frames)
        x = self.project(x.masked_fill(~valid.unsqueeze(2), 0.0))
        blocks = gap_blocks(
            valid, gap=self.gap, block_size=64 if x.device.type == "cpu" else 512, dtype=x.dtype
        )
        positions = relative_sinusoids(num_frames, num_frames, self.dim, x)
        taps = Taps(f"attention.{part}" for part in ("query", "key", "value"))
        y = self.norm(x)
        y = self.attention(y, y, positions, blocks, taps=taps, name="attention")
        x = x + self.dropout(y)
        out = x + self.dropout(self.feedforward(x))
        if self.lstm is None or self.predict is None:
            return BranchOutput(out, None, taps)
        # Not every backend has this in half precision.
        with torch.autocast(x.device.type, enabled=False):
            hidden, _ = self.lstm(out.to(self.lstm.weight_ih_l0.dtype))
        return BranchOutput(out, self.predict(hidden), taps)
