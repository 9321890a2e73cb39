"""How good a quantizer is on frames it has not seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mvqkd.quantization.counts import code_counts, code_entropy
from mvqkd.quantization.frames import Frames, as_frames, read_checked
from mvqkd.quantization.quantizer import Quantizer


@dataclass
class Measurement:
    """What `measure` found."""

    num_frames: int
    relative_error: float
    """sum |x - x_hat|^2 / sum |x - mean|^2, with the mean of these frames."""
    direct_sum_error: float
    """The same without the correction of `Quantizer.decode`."""
    entropy: list[float]
    """Of each codebook's codes, in bits; at most 8."""
    utilization: list[float]
    """Share of each codebook's entries that occur."""


@torch.no_grad()
def measure(quantizer: Quantizer, embeddings: Frames | Tensor | np.ndarray) -> Measurement:
    """Encode and decode frames with the default effort.

    Args:
        quantizer: on any device.
        embeddings: frames (T, D), held out from the fit.

    Raises:
        ValueError: no frames, frames of another dimension, or a frame that is not finite.
    """
    frames = as_frames(embeddings)
    if frames.num_frames == 0:
        raise ValueError("there are no frames to measure the quantizer on")
    size, num_codebooks = quantizer.codebook_size, quantizer.num_codebooks
    counts = torch.zeros(num_codebooks, size, dtype=torch.long)
    error = direct_sum_error = energy = 0.0
    total = torch.zeros(quantizer.dim, dtype=torch.float64, device=quantizer.mean.device)
    for begin in range(0, frames.num_frames, 4096):
        x = read_checked(frames, begin, min(begin + 4096, frames.num_frames))
        x = x.to(quantizer.mean.device)
        codes = quantizer.encode(x)
        error += _energy(x - quantizer.decode(codes))
        direct_sum_error += _energy(x - quantizer.direct_sum(codes))
        x = x - quantizer.mean  # near the mean of the frames, where sums of squares lose no digits
        energy += _energy(x)
        total += x.sum(dim=0, dtype=torch.float64)
        counts += code_counts(codes.cpu(), size)
    energy -= float(total.square().sum()) / frames.num_frames
    return Measurement(
        num_frames=frames.num_frames,
        relative_error=error / energy if energy > 0 else 0.0,
        direct_sum_error=direct_sum_error / energy if energy > 0 else 0.0,
        entropy=code_entropy(counts).tolist(),
        utilization=(counts > 0).double().mean(dim=1).tolist(),
    )


def _energy(x: Tensor) -> float:
    return float(x.square().sum(dtype=torch.float64))
