"""Exchange quantizers with the PyPI package `multi_quantization`, which is not needed for it.

Its state dict holds `centers` (Q, K, D) and `centers_scale`, a linear layer `to_logits` that
guesses all codes at once with `logits_scale`, and `id_buf`, the id's eight characters; a scale's
effective value is exp(10 * scale). It has no mean: x_hat = scale * sum_q centers[q, code_q].
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mvqkd.errors import UserError
from mvqkd.quantization.frames import Frames, as_frames, shuffled_batches
from mvqkd.quantization.quantizer import Quantizer, read_tensors

_SCALE_SPEED = 10.0
_FRAMES = 512  # encoded at a time
_KEYS = ("to_logits.weight", "to_logits.bias", "centers", "logits_scale", "centers_scale", "id_buf")


def load_quantizer(path: str | Path) -> Quantizer:
    """Read a file of `Quantizer.save`, or a saved state dict of the package.

    Raises:
        UserError: the file is missing, damaged or something else.
    """
    state = read_tensors(path)
    if isinstance(state, dict) and "centers_scale" in state:
        try:
            return from_reference(state)
        except (ValueError, RuntimeError) as error:
            raise UserError(f"{path}: {error}", remedy="save the quantizer's state dict") from error
    return Quantizer.from_state(state, path)


def from_reference(state: Mapping[str, Tensor]) -> Quantizer:
    """Our quantizer that decodes as the one with this state dict does, under the same id.

    `Quantizer.encode` searches further than the package and finds other, nearer codes. For codes
    equal to the package's own (to match published ones) use `reference_encode`.

    Raises:
        ValueError: a key is missing, or codebooks of more than 256 entries.
    """
    centers = _centers(state)
    means = centers.mean(dim=1, keepdim=True)
    return Quantizer(
        means.sum(dim=(0, 1)), centers - means, id=bytes(state["id_buf"].tolist()).decode()
    )


def to_reference(
    quantizer: Quantizer, embeddings: Frames | Tensor | np.ndarray, *, num_steps: int = 500
) -> dict[str, Tensor]:
    """A state dict that the package loads; it decodes our codes as we do.

    Its encoder starts from a linear guess, which is trained here on the codes of `embeddings`.

    Raises:
        ValueError: the package supports neither this number of codebooks nor of entries, which
            must be powers of two.
    """
    num_codebooks, size = quantizer.centers.shape[:2]
    if num_codebooks & (num_codebooks - 1) or size & (size - 1):
        raise ValueError(
            f"multi_quantization has no {num_codebooks} codebooks of {size} entries: both numbers "
            "must be powers of two"
        )
    mean, centers = quantizer.mean, quantizer.centers
    spread = centers.square().mean(dim=1).sum().sqrt().clamp(min=1e-20)
    # Without the other codebooks the nearest entry is the best guess; training improves on it.
    with torch.enable_grad():
        weight = (centers.flatten(0, 1) / spread).requires_grad_()
        bias = (-0.5 * (centers / spread).square().sum(dim=2).flatten()).requires_grad_()
        optimizer = torch.optim.Adam([weight, bias], lr=1e-2)
        frames = as_frames(embeddings)
        batches = shuffled_batches(frames, min(1024, frames.num_frames), seed=0)
        for step in range(num_steps):
            optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / num_steps)
            x = next(batches).to(mean.device)
            codes = quantizer.encode(x, beam_size=4).long()
            logits = F.linear((x - mean) / spread, weight, bias)
            loss = F.cross_entropy(logits.view(-1, size), codes.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    weight, bias = weight.detach() / spread, bias.detach()
    zero = torch.zeros((), device=mean.device)
    state = {
        "to_logits.weight": weight,
        "to_logits.bias": bias - weight @ mean,
        "centers": centers + mean / num_codebooks,
        "logits_scale": zero,
        "centers_scale": zero,
        "id_buf": torch.tensor(list(quantizer.id.encode()), dtype=torch.uint8),
    }
    return {key: value.cpu().clone() for key, value in state.items()}


@torch.no_grad()
def reference_encode(state: Mapping[str, Tensor], x: Tensor, *, passes: int = 5) -> Tensor:
    """Codes as `multi_quantization` itself finds them.

    A linear guess, then passes that each propose changes of single codes with the others held,
    keep the best few, join neighbouring codebooks' proposals and keep the best few again, until one
    proposal for all codebooks is left.

    Args:
        state: the package's state dict.
        x: (..., D).
        passes: its `refine_indexes_iters`.

    Returns:
        (..., Q) uint8, equal to the package's up to ties within rounding.
    """
    centers = _centers(state)
    num_codebooks, size, dim = centers.shape
    scale = (state["logits_scale"] * _SCALE_SPEED).exp()
    rows = x.reshape(-1, dim).float()
    found = [torch.empty(0, num_codebooks, dtype=torch.long, device=x.device)]
    for part in rows.split(_FRAMES):
        logits = F.linear(part * scale, state["to_logits.weight"], state["to_logits.bias"])
        codes = logits.view(-1, num_codebooks, size).argmax(dim=2)
        for _ in range(passes):
            codes = refine(part, codes, centers)
        found.append(codes)
    return torch.cat(found).to(torch.uint8).view(*x.shape[:-1], num_codebooks)


def _centers(state: Mapping[str, Tensor]) -> Tensor:
    for key in _KEYS:
        if key not in state:
            raise ValueError(f"not a state dict of multi_quantization: it has no {key!r}")
    centers = state["centers"].detach().float() * (state["centers_scale"] * _SCALE_SPEED).exp()
    if centers.shape[1] > 256:
        raise ValueError(f"codebooks of {centers.shape[1]} entries do not fit a byte")
    return centers


def refine(x: Tensor, codes: Tensor, centers: Tensor) -> Tensor:
    """One pass of the package's `Quantizer._refine_indexes`.

    Args:
        x: frames (T, D).
        codes: (T, Q) int64, Q a power of 2.
        centers: (Q, K, D).

    Returns:
        (T, Q) int64.
    """
    if len(x) == 0:
        return codes
    num_codebooks, size, dim = centers.shape
    rows = centers.reshape(-1, dim)
    first_row = size * torch.arange(num_codebooks, device=x.device)
    current = rows[(codes + first_row).flatten()].view(len(x), num_codebooks, dim)
    error = current.sum(dim=1) - x
    rest = error[:, None] - current
    costs = torch.bmm(rest.transpose(0, 1), centers.transpose(1, 2)).mul_(2)
    costs += centers.square().sum(dim=2)[:, None]
    costs, kept = costs.topk(min(_kept(1, size), size), dim=2, largest=False)
    costs = costs.transpose(0, 1) + rest.square().sum(dim=2, keepdim=True)
    kept = kept.transpose(0, 1)
    # On a CPU, of so few frames at a time that their changes stay in the cache.
    step = max(1, (2**24 if x.is_cuda else 2**19) // (kept[0].numel() * dim))
    chosen = [
        _join(
            rows.index_select(0, (proposals + first_row[:, None]).flatten())
            .view(*proposals.shape, dim)
            .sub_(now[:, :, None]),
            cost,
            e.square().sum(dim=1),
            size,
        )
        for proposals, now, cost, e in zip(
            *(values.split(step) for values in (kept, current, costs, error)), strict=True
        )
    ]
    return kept.gather(2, torch.cat(chosen))[:, :, 0]


def _join(deltas: Tensor, costs: Tensor, before: Tensor, size: int) -> Tensor:
    """Which of its proposals each codebook should take, where the best are kept of pairs of
    codebooks, of pairs of such pairs, and so on.

    Args:
        deltas: (T, Q, P, D), the change that a proposal makes to the reconstruction.
        costs: (T, Q, P), the squared error if it is the only change.
        before: (T,), the squared error without a change.
        size: entries of a codebook.

    Returns:
        (T, Q, 1) int64, less than P.
    """
    num_frames, groups, _, dim = deltas.shape
    halves = []
    width = 1
    while groups > 1:
        groups, width, proposals = groups // 2, 2 * width, deltas.shape[2]
        halved = deltas.view(-1, 2, proposals, dim)
        pairs = torch.bmm(halved[:, 0], halved[:, 1].transpose(1, 2)).mul_(2)
        pairs = pairs.view(num_frames, groups, proposals, proposals)
        pairs += costs[:, 0::2, :, None]
        pairs += costs[:, 1::2, None]
        costs = pairs.flatten(2) - before[:, None, None]
        number = 1 if groups == 1 else min(_kept(width, size), proposals**2)
        costs, best = costs.topk(number, dim=2, largest=False)
        halves.append((best // proposals, best % proposals))
        if groups > 1:
            first = torch.arange(len(halved), device=best.device) * (2 * proposals)
            first = first.view(num_frames, groups, 1)
            rows = halved.view(-1, dim)
            deltas = rows.index_select(0, (halves[-1][0] + first).flatten())
            deltas += rows.index_select(0, (halves[-1][1] + first + proposals).flatten())
            deltas = deltas.view(*best.shape, dim)
    # Which proposals of its halves a proposal is made of, followed back from the only one left.
    chosen = torch.zeros(num_frames, 1, 1, dtype=torch.long, device=costs.device)
    for pair in reversed(halves):
        chosen = torch.cat([half.gather(2, chosen) for half in pair], dim=2).view(num_frames, -1, 1)
    return chosen


def _kept(width: int, size: int) -> int:
    """How many proposals of a group of `width` codebooks are kept."""
    kept = 8 if size <= 16 else 16
    while width >= 4:
        width //= 4
        kept *= 2
    return min(kept, 128)
