"""Learning the codebooks.

1. Start from a product quantizer in a rotated space (`start.py`).
2. Minibatches: find the codes of a batch by beam search, step all centers down the gradient of
   its squared error (Adam, cosine schedule). Nothing binds a codebook to its subspace any more.
3. Polish: with the codes of many frames fixed, the best centers are a linear least-squares problem.
4. Fix the gauge: codebooks zero-mean, in order of energy.

Everything is float32 and reads frames a pool at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mvqkd.quantization.frames import Frames, read_checked, sample, shuffled_batches
from mvqkd.quantization.search import pairwise_costs, search, unary_costs
from mvqkd.quantization.start import product_start

START_FRAMES = 32768
START_ITERS = 15
POLISH_FRAMES = 200_000
BEAM_SIZE = 4
LEARNING_RATE = 0.02
BATCH_FRAMES = 1024


def fit_centers(
    frames: Frames,
    *,
    num_codebooks: int,
    codebook_size: int,
    seed: int,
    num_steps: int | None,
    device: torch.device,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Learn mean (D,) and centers (Q, K, D).

    Args:
        frames: at least K of them; about 100 000 or more for a good quantizer.
        num_codebooks: Q, 1 to 32.
        codebook_size: K, at most 256.
        seed: the result is a function of the frames, the seed and the other arguments.
        num_steps: minibatch steps; None for the default.
        device: where to compute. Frames are read on the CPU.
        progress: called with (steps done, steps).

    Raises:
        ValueError: fewer frames than K, frames that are all equal, or a frame that is not finite.
    """
    if not (1 <= num_codebooks <= 32 and 2 <= codebook_size <= 256):
        raise ValueError(
            f"{num_codebooks} codebooks of {codebook_size} entries: 1 to 32 codebooks of 2 to 256 "
            "entries are supported"
        )
    if frames.num_frames < codebook_size:
        raise ValueError(
            f"{frames.num_frames} frames cannot train codebooks of {codebook_size} entries; "
            "give at least as many, better 100 000"
        )
    steps = 1000 if num_steps is None else num_steps
    generator = torch.Generator().manual_seed(seed)
    x = sample(frames, max(START_FRAMES, codebook_size)).to(device)
    mean = x.double().mean(dim=0).float()
    scale = (x - mean).square().mean().sqrt()
    if not scale > 1e-6 * x.abs().max():
        raise ValueError("all frames are equal: there is nothing to quantize")
    centers, _ = product_start(
        (x - mean) / scale, num_codebooks, codebook_size, generator, num_iters=START_ITERS
    )
    centers = centers.requires_grad_()
    optimizer = torch.optim.Adam([centers], lr=LEARNING_RATE, betas=(0.9, 0.98), eps=1e-12)
    batches = shuffled_batches(frames, min(BATCH_FRAMES, frames.num_frames), seed)
    for step in range(steps):
        batch = (next(batches).to(device) - mean) / scale
        optimizer.param_groups[0]["lr"] = (
            LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
        )
        centers.grad = _gradient(batch, centers.detach())
        optimizer.step()
        if progress is not None:
            progress(step + 1, steps)
    return _finish(frames, mean, scale, centers.detach())


def _codes(x: Tensor, centers: Tensor, pairwise: Tensor, *, beam_size: int) -> Tensor:
    return search(unary_costs(x, centers), pairwise, beam_size=beam_size, sweeps=0).long()


def _decode(codes: Tensor, centers: Tensor) -> Tensor:
    x = centers[0][codes[:, 0]]
    for q in range(1, len(centers)):
        x = x + centers[q][codes[:, q]]
    return x


def _gradient(x: Tensor, centers: Tensor) -> Tensor:
    """Of half the mean squared error, at the codes that a beam search finds."""
    codes = _codes(x, centers, pairwise_costs(centers), beam_size=BEAM_SIZE)
    residual = (_decode(codes, centers) - x) / len(x)
    gradient = torch.zeros_like(centers)
    for q in range(len(centers)):
        gradient[q].index_add_(0, codes[:, q], residual)
    return gradient


def _finish(frames: Frames, mean: Tensor, scale: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    """Polish the centers, fix the gauge, undo the scale."""
    num_codebooks, size, dim = centers.shape
    offsets = torch.arange(num_codebooks, device=centers.device) * size
    # Normal equations (A + 1) c = B + c_old: entries without frames stay where they are.
    a = torch.zeros(num_codebooks * size, num_codebooks * size, device=centers.device)
    b = torch.zeros(num_codebooks * size, dim, device=centers.device, dtype=torch.float64)
    pairwise = pairwise_costs(centers)
    seen = 0
    for begin in range(0, frames.num_frames, 4096):
        if seen >= POLISH_FRAMES:
            break
        x = read_checked(frames, begin, min(begin + 4096, frames.num_frames)).to(mean)
        x = (x - mean) / scale
        rows = _codes(x, centers, pairwise, beam_size=2 * BEAM_SIZE) + offsets
        for q in range(num_codebooks):
            b.index_add_(0, rows[:, q], x.double())
            for p in range(num_codebooks):
                ones = torch.ones(len(x), device=a.device)
                a.index_put_((rows[:, q], rows[:, p]), ones, accumulate=True)
        seen += len(x)
    counts = a.diagonal().view(num_codebooks, size).clone()
    a = a.double()
    a.diagonal().add_(1)
    b += centers.flatten(0, 1)
    factor = torch.linalg.cholesky(a)
    centers = torch.cholesky_solve(b, factor).view(num_codebooks, size, dim)
    weights = (counts / counts.sum(dim=1, keepdim=True))[:, :, None].double()
    shift = (weights * centers).sum(dim=1, keepdim=True)
    centers = (centers - shift) * scale
    energy = (weights * centers.square()).sum(dim=(1, 2))
    mean = mean.double() + shift.sum(dim=(0, 1)) * scale
    order = energy.argsort(descending=True, stable=True)
    return mean.float().cpu(), centers[order].float().cpu().contiguous()
