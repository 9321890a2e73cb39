"""A nonlinear decoder: a correction of the sum of a frame's centers.

A sum captures only what every code contributes independently. The best reconstruction, the mean of
the frames that have all of these codes, is predicted from the sum by a small network. The codes and
everything computed from them stay the same; only `Quantizer.decode` is nearer to the frame. Neural
decoders of additive codes, made differently: Morozov and Babenko, arXiv 1908.03883, section 3;
Huijben et al., arXiv 2401.14732, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvqkd.quantization.frames import Frames, read_checked, shuffled_batches

# Wider is better and slower.
HIDDEN_DIM = 1024
LEARNING_RATE = 3e-3
BATCH_FRAMES = 512
_WARMUP_STEPS = 50
_CHUNK_FRAMES = 8192
_SHRINKAGE_FRAMES = 8192
# With more passes over few frames the network overfits.
_MAX_EPOCHS = 10


class Correction(nn.Module):
    """z -> z + outer(relu(inner(z))), for sums of centers z (..., D), float32; without gradients.

    Args:
        inner_weight: (H, D).
        inner_bias: (H,).
        outer_weight: (D, H).
        outer_bias: (D,).

    Raises:
        ValueError: shapes that do not fit together.
    """

    inner_weight: Tensor
    inner_bias: Tensor
    outer_weight: Tensor
    outer_bias: Tensor

    def __init__(
        self, inner_weight: Tensor, inner_bias: Tensor, outer_weight: Tensor, outer_bias: Tensor
    ) -> None:
        super().__init__()
        hidden, dim = inner_weight.shape
        if (inner_bias.shape, outer_weight.shape, outer_bias.shape) != (
            (hidden,),
            (dim, hidden),
            (dim,),
        ):
            raise ValueError(
                f"weights {tuple(inner_weight.shape)} and {tuple(outer_weight.shape)} with biases "
                f"{tuple(inner_bias.shape)} and {tuple(outer_bias.shape)} are not those of two "
                "layers"
            )
        self.register_buffer("inner_weight", inner_weight.detach().float().clone())
        self.register_buffer("inner_bias", inner_bias.detach().float().clone())
        self.register_buffer("outer_weight", outer_weight.detach().float().clone())
        self.register_buffer("outer_bias", outer_bias.detach().float().clone())

    @property
    def dim(self) -> int:
        """D, width of embeddings."""
        return self.inner_weight.shape[1]

    @torch.no_grad()
    def forward(self, z: Tensor) -> Tensor:
        """Direct sums (..., D) less the mean -> corrected ones (..., D) of the same type."""
        weights = (self.inner_weight, self.inner_bias, self.outer_weight, self.outer_bias)
        rows = z.reshape(-1, self.dim).split(_CHUNK_FRAMES)
        with torch.autocast(z.device.type, enabled=False):
            corrected = torch.cat([part + _network(part, *weights) for part in rows])
        return corrected.view(z.shape)


def fit_correction(
    frames: Frames,
    mean: Tensor,
    reconstruct: Callable[[Tensor], Tensor],
    *,
    seed: int,
    num_steps: int,
    progress: Callable[[int, int], None] | None = None,
) -> Correction:
    """Train a network that adds to sums of centers what they lack of the frames.

    The last tenth of the frames, at most 8192, is held out of the training. On it the network's
    output is scaled by the factor between 0 and 1 that gives the least error, so that a network
    that underfits or overfits does no harm.

    Args:
        frames: what the quantizer was trained on, at least 2 of them.
        mean: (D,), the quantizer's; frames are computed with on its device.
        reconstruct: frames (T, D) -> mean + sum of the centers of their codes (T, D).
        seed: of the weights and of the frames' order.
        num_steps: batches of 512 frames; fewer if that is more than ten times all frames.
        progress: called with (steps done, steps); steps that are not needed count as done.

    Raises:
        ValueError: a frame that is not finite.
    """
    held = max(1, min(_SHRINKAGE_FRAMES, frames.num_frames // 10))
    train = _Head(frames, frames.num_frames - held)
    batch_size = min(BATCH_FRAMES, train.num_frames)
    steps = min(num_steps, math.ceil(_MAX_EPOCHS * train.num_frames / batch_size))
    x = read_checked(frames, train.num_frames, frames.num_frames).to(mean)
    z = reconstruct(x) - mean
    scale = z.square().mean().sqrt().clamp(min=1e-20)
    generator = torch.Generator().manual_seed(seed)
    inner_weight = torch.randn(HIDDEN_DIM, train.dim, generator=generator) / math.sqrt(train.dim)
    weights = [
        inner_weight.to(mean),
        mean.new_zeros(HIDDEN_DIM),
        mean.new_zeros(train.dim, HIDDEN_DIM),
        mean.new_zeros(train.dim),
    ]
    optimizer = torch.optim.Adam([w.requires_grad_() for w in weights], lr=LEARNING_RATE)
    batches = shuffled_batches(train, batch_size, seed)
    with torch.enable_grad():
        for step in range(steps):
            batch = next(batches).to(mean)
            sums = reconstruct(batch)
            missing = (batch - sums) / scale
            loss = (missing - _network((sums - mean) / scale, *weights)).square().sum()
            optimizer.zero_grad()
            (loss / len(batch)).backward()
            rate = LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
            optimizer.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / _WARMUP_STEPS)
            optimizer.step()
            if progress is not None:
                progress(num_steps - steps + step + 1, num_steps)
    inner_weight, inner_bias, outer_weight, outer_bias = (w.detach() for w in weights)
    # The scale and the shrinkage move into the weights.
    added = _network(z / scale, inner_weight, inner_bias, outer_weight, outer_bias) * scale
    energy = added.square().sum()
    factor = ((x - mean - z) * added).sum() / energy if energy > 0 else energy
    factor = scale * factor.clamp(0, 1)
    return Correction(inner_weight / scale, inner_bias, factor * outer_weight, factor * outer_bias)


def _network(
    z: Tensor, inner_weight: Tensor, inner_bias: Tensor, outer_weight: Tensor, outer_bias: Tensor
) -> Tensor:
    return F.linear(F.linear(z, inner_weight, inner_bias).relu(), outer_weight, outer_bias)


class _Head:
    """The first of some frames."""

    def __init__(self, frames: Frames, num_frames: int) -> None:
        self._frames = frames
        self.num_frames, self.dim = num_frames, frames.dim

    def read(self, begin: int, end: int) -> Tensor:
        return self._frames.read(begin, end)

    def describe(self, row: int) -> str:
        return self._frames.describe(row)
