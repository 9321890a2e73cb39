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
    median_error: float
    """The median over dimensions of each one's squared error as a fraction of its variance: not
    that of a few whose variance outweighs all others."""
    dominant_dimensions: int
    """1 % of the dimensions, at least two: those of the largest variance."""
    dominant_share: float
    """Their part of the variance of all dimensions."""
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
    direct_sum_error = 0.0
    error, energy, total = (
        torch.zeros(quantizer.dim, dtype=torch.float64, device=quantizer.mean.device)
        for _ in range(3)
    )
    for begin in range(0, frames.num_frames, 4096):
        x = read_checked(frames, begin, min(begin + 4096, frames.num_frames))
        x = x.to(quantizer.mean.device)
        codes = quantizer.encode(x)
        error += _energies(x - quantizer.decode(codes))
        direct_sum_error += float(_energies(x - quantizer.direct_sum(codes)).sum())
        x = x - quantizer.mean  # near the mean of the frames, where sums of squares lose no digits
        energy += _energies(x)
        total += x.sum(dim=0, dtype=torch.float64)
        counts += code_counts(codes.cpu(), size)
    energy = (energy - total.square() / frames.num_frames).clamp(min=0)
    whole = float(energy.sum())
    dominant = min(quantizer.dim, max(2, quantizer.dim // 100))
    return Measurement(
        num_frames=frames.num_frames,
        relative_error=float(error.sum()) / whole if whole > 0 else 0.0,
        direct_sum_error=direct_sum_error / whole if whole > 0 else 0.0,
        median_error=float((error / energy)[energy > 0].median()) if whole > 0 else 0.0,
        dominant_dimensions=dominant,
        dominant_share=float(energy.topk(dominant).values.sum()) / whole if whole > 0 else 0.0,
        entropy=code_entropy(counts).tolist(),
        utilization=(counts > 0).double().mean(dim=1).tolist(),
    )


def _energies(x: Tensor) -> Tensor:
    """(D,) float64 of each dimension."""
    return x.square().sum(dim=0, dtype=torch.float64)
