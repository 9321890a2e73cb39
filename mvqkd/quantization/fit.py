"""Learning the codebooks.

1. Start from a product quantizer in a rotated space (`start.py`).
2. Minibatches: find the codes of a batch, step all centers down the gradient of its squared error
   and of a small penalty of their own (Adam, cosine schedule). Nothing binds a codebook to its
   subspace any more. This happens in the frames' principal axes with steps in proportion to each
   axis' deviation, because Adam steps as far along axes of small variance as along the others.
3. Fix the gauge: codebooks zero-mean, in order of energy.

Everything is float32 and reads frames a pool at a time. A least-squares polish of the centers at
the end, with codes held, gained nothing on held-out frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mvqkd.quantization.counts import code_counts, sums_by_code
from mvqkd.quantization.frames import Frames, sample, shuffled_batches
from mvqkd.quantization.search import pairwise_costs, search, unary_costs
from mvqkd.quantization.start import product_start

START_FRAMES = 32768
START_ITERS = 15
LEARNING_RATE = 0.05
# Weight of the entries' mean squared norm beside the frames' squared error. With it and this rate
# the error of held-out frames is smaller by 0.8, 0.8, 1.8 and 5.7 % than with 0 and 0.03 (4, 8, 16
# and 32 bytes of Whisper tiny.en, benchmarks/quantizer.py).
SHRINKAGE = 0.02
BATCH_FRAMES = 1024
# Batches whose codes are found together, at the centers before the first of them: the products of
# all pairs of centers cost as much as the codes of 2000 frames (Q = 8, D = 384).
BATCHES_PER_SEARCH = 4
# Beam size of the search in training. With one hypothesis, centers are fitted to codes that a
# better search would not choose. 4 take 2 to 3 % off the error for a quarter more time (4, 8 and 16
# bytes of Whisper tiny.en); 8 and 16 take no more off.
BEAM_SIZE = 4
NUM_STEPS = 2000
# Sums of squares over frames and dimensions stay within float32, and so do their inverses.
_LARGEST = 1e14


def fit_centers(
    frames: Frames,
    *,
    num_codebooks: int,
    codebook_size: int,
    seed: int,
    num_steps: int,
    device: torch.device,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Learn mean (D,) and centers (Q, K, D).

    Args:
        frames: at least K of them; about 100 000 or more for a good quantizer.
        num_codebooks: Q, 1 to 32.
        codebook_size: K, at most 256.
        seed: the result is a function of the frames, the seed and the other arguments, on the same
            machine and with as many threads; elsewhere sums round differently.
        num_steps: minibatch steps.
        device: where to compute. Frames are read on the CPU.
        progress: called with (steps done, steps).

    Raises:
        ValueError: fewer frames than K, frames that are all equal, values too large or too small
            for float32, or a frame that is not finite.
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
    generator = torch.Generator().manual_seed(seed)
    x = sample(frames, max(START_FRAMES, codebook_size)).to(device)
    largest = float(x.abs().max())
    if largest and not 1 / _LARGEST <= largest <= _LARGEST:
        raise ValueError(
            f"the largest value of the frames is {largest:.3g}: their squared errors do not fit "
            f"into float32; scale them to values between {1 / _LARGEST:g} and {_LARGEST:g}"
        )
    mean = x.double().mean(dim=0).float()
    scale = (x - mean).square().mean().sqrt()
    if not scale > 1e-6 * x.abs().max():
        raise ValueError("all frames are equal: there is nothing to quantize")
    x = (x - mean) / scale
    variances, axes = torch.linalg.eigh(x.T @ x / len(x))
    x = x @ axes
    deviations = variances.clamp(min=1e-6).sqrt()
    centers = product_start(x, num_codebooks, codebook_size, generator, num_iters=START_ITERS)
    parameter = (centers / deviations).requires_grad_()
    optimizer = torch.optim.Adam([parameter], lr=LEARNING_RATE, betas=(0.9, 0.98), eps=1e-12)
    batch_size = min(BATCH_FRAMES, frames.num_frames)
    batches = shuffled_batches(frames, batch_size, seed)
    for step in range(num_steps):
        if step % BATCHES_PER_SEARCH == 0:
            count = min(BATCHES_PER_SEARCH, num_steps - step)
            rows = torch.cat([next(batches) for _ in range(count)]).to(device)
            rows = (rows - mean) / scale @ axes
            codes = _codes(rows, centers)
            pairs = zip(rows.split(batch_size), codes.split(batch_size), strict=True)
        batch, batch_codes = next(pairs)
        rate = LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * step / num_steps))
        optimizer.param_groups[0]["lr"] = rate
        gradient = _gradient(batch, batch_codes, centers) + SHRINKAGE / codebook_size * centers
        parameter.grad = gradient * deviations
        optimizer.step()
        centers = parameter.detach() * deviations
        if progress is not None:
            progress(step + 1, num_steps)
    shift, centers = _fix_gauge(centers, _codes(x, centers))
    return (mean + shift @ axes.T * scale).cpu(), (centers @ axes.T * scale).cpu().contiguous()


def _codes(x: Tensor, centers: Tensor) -> Tensor:
    """Codes (T, Q) int64 by a search that is cheap enough to learn from."""
    pairwise = pairwise_costs(centers)
    codes = [
        search(unary_costs(part, centers), pairwise, beam_size=BEAM_SIZE, sweeps=1)
        for part in x.split(1024)
    ]
    return torch.cat(codes).long()


def _gradient(x: Tensor, codes: Tensor, centers: Tensor) -> Tensor:
    """Of half the mean squared error of these codes."""
    residual = -x
    for q in range(len(centers)):
        residual = residual + centers[q][codes[:, q]]
    residual = residual / len(x)
    return torch.stack([sums_by_code(residual, column, centers.shape[1]) for column in codes.T])


def _fix_gauge(centers: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """What the codebooks' means add up to (D,), and the codebooks without it, in order of energy.
    Entries are weighted by how often they occur in `codes` (T, Q)."""
    counts = code_counts(codes.cpu(), centers.shape[1]).to(centers)
    weights = (counts / len(codes))[:, :, None]
    means = (weights * centers).sum(dim=1, keepdim=True)
    centers = centers - means
    energy = (weights * centers.square()).sum(dim=(1, 2))
    return means.sum(dim=(0, 1)), centers[energy.argsort(descending=True, stable=True)]
