"""The Conformer's convolution module (Gulati et al. 2020, section 2.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvqkd.models.depthwise import depthwise


class ConvolutionModule(nn.Module):
    """Pointwise, gated linear unit, depthwise, norm, Swish, pointwise.

    The paper's BatchNorm is a LayerNorm here: its statistics would mix padding and other
    utterances into a frame, and differ between training and streaming.

    Args:
        dim: D.
        kernel: frames that the depthwise convolution spans; odd unless causal.
        causal: see only the kernel - 1 frames before each frame.
    """

    def __init__(self, *, dim: int, kernel: int, causal: bool) -> None:
        super().__init__()
        if kernel < 1 or (not causal and kernel % 2 == 0):
            raise ValueError(f"conv_kernel={kernel} must be positive, and odd unless causal")
        self.left = kernel - 1 if causal else kernel // 2
        self.right = kernel - 1 - self.left
        self.expand = nn.Linear(dim, 2 * dim)
        self.depthwise = nn.Conv1d(dim, dim, kernel, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.output = nn.Linear(dim, dim)

    def forward(
        self, x: Tensor, valid: Tensor | None, cache: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Convolve (N, T, D) along time.

        Args:
            valid: (N, T) bool; frames where it is False count as zeros, as those outside of the
                utterance do. None: all are valid.
            cache: (N, kernel - 1, D), the frames before x of a stream (causal only).

        Returns:
            (N, T, D), and the (N, kernel - 1, D) cache of the next chunk (meaningful if causal).
        """
        x = F.glu(self.expand(x), dim=-1)
        if valid is not None:
            x = x.masked_fill(~valid.unsqueeze(-1), 0.0)
        if cache is None:
            x = F.pad(x, (0, 0, self.left, self.right))
        else:
            x = torch.cat([cache.to(x.dtype), x], dim=1)
        frames = x.size(1) - self.left - self.right
        y = depthwise(x, self.depthwise)
        return self.output(F.silu(self.norm(y))), x[:, frames:]
