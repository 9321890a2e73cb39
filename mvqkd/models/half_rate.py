"""Layers at half the frame rate, as in Squeezeformer and Zipformer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class HalfRate(nn.Module):
    """Averages pairs of frames, and brings what became of them back to the full rate.

    Like Squeezeformer's temporal U-Net (Kim et al. 2022, arXiv 2206.00888, section 3.1) and
    Zipformer's stacks (Yao et al. 2023, arXiv 2310.11230, section 3.1) the full-rate path stays: to
    every frame of a pair is added its difference from the pair's average before the layers, times a
    learned scale per channel that begins at 1. Layers that change nothing so change nothing at all.

    Frames 2t and 2t + 1 are a pair, so a pair lies in one chunk if chunks are even.

    Args:
        dim: D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))

    def average(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """(N, T, D) -> (N, (T + 1) // 2, D).

        Args:
            valid: (N, T) bool; a frame whose second is missing or not valid stands for itself.
                None: all are valid, and T is even.
        """
        first = x[:, ::2]
        if valid is None:
            return 0.5 * (first + x[:, 1::2])
        # One more frame makes up the last pair of an odd number, and is beyond those of an even.
        second = F.pad(x, (0, 0, 0, 1))[:, 1::2]
        paired = F.pad(valid, (0, 1))[:, 1::2].unsqueeze(-1)
        return 0.5 * (first + torch.where(paired, second, first))

    def restore(self, y: Tensor, averages: Tensor, x: Tensor) -> Tensor:
        """Full rate.

        Args:
            y: (N, (T + 1) // 2, D), what the layers made of the averages.
            averages: (N, (T + 1) // 2, D), of x.
            x: (N, T, D).

        Returns:
            (N, T, D).
        """
        frames = x.size(1)
        detail = x - repeat(averages, frames)
        return torch.addcmul(repeat(y, frames), self.scale.to(x.dtype), detail)


def repeat(x: Tensor, num_frames: int) -> Tensor:
    """(..., (T + 1) // 2, D) -> (..., T, D), every frame twice."""
    return torch.stack([x, x], dim=-2).flatten(-3, -2)[..., :num_frames, :]


def halve(frames: int | None, name: str) -> int | None:
    """Half of a number of frames; None stays.

    Raises:
        ValueError: it is odd.
    """
    if frames is None:
        return None
    if frames % 2:
        raise ValueError(f"{name}={frames} must be even, as some layers work on pairs of frames")
    return frames // 2
