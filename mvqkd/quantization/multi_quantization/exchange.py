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
_KEYS = ("to_logits.weight", "to_logits.bias", "centers", "logits_scale", "centers_scale", "id_buf")


def load_quantizer(path: str | Path) -> Quantizer:
    """Read a file of `Quantizer.save`, or a saved state dict of the package.

    Raises:
        UserError: the file is missing, damaged or something else.
    """
    state = read_tensors(path)
    if isinstance(state, dict) and "centers_scale" in state:
        try:
            return from_multi_quantization(state)
        except (ValueError, RuntimeError, TypeError, AttributeError, IndexError) as error:
            raise UserError(f"{path}: {error}", remedy="save the quantizer's state dict") from error
    return Quantizer.from_state(state, path)


def from_multi_quantization(state: Mapping[str, Tensor]) -> Quantizer:
    """Our quantizer that encodes and decodes as the one with this state dict does, under the same
    id: its codes go with published ones.

    Raises:
        ValueError: a key is missing, or codebooks of more than 256 entries.
    """
    centers = _centers(state)
    means = centers.mean(dim=1, keepdim=True)
    mean = means.sum(dim=(0, 1))
    weight = state["to_logits.weight"].float() * (state["logits_scale"] * _SCALE_SPEED).exp()
    return Quantizer(
        mean,
        centers - means,
        id=bytes(state["id_buf"].tolist()).decode(),
        guess=(weight, state["to_logits.bias"].float() + weight @ mean),
    )


def to_multi_quantization(
    quantizer: Quantizer, embeddings: Frames | Tensor | np.ndarray, *, num_steps: int = 500
) -> dict[str, Tensor]:
    """A state dict that the package loads; it decodes our codes as `Quantizer.direct_sum` does,
    because it has no place for a correction.

    Its encoder starts from a linear guess: the quantizer's own if it came from the package, else
    one that is trained here on the codes of `embeddings`.

    Raises:
        ValueError: the package supports neither this number of codebooks nor of entries, which
            must be powers of two; or the quantizer weighs dimensions.
    """
    num_codebooks, size = quantizer.centers.shape[:2]
    if quantizer.scales is not None:
        raise ValueError(
            "multi_quantization has no weights of dimensions: it would choose other codes"
        )
    if num_codebooks & (num_codebooks - 1) or size & (size - 1):
        raise ValueError(
            f"multi_quantization has no {num_codebooks} codebooks of {size} entries: both numbers "
            "must be powers of two"
        )
    mean, centers = quantizer.mean, quantizer.centers
    weight, bias = quantizer.guess or _fit_guess(quantizer, as_frames(embeddings), num_steps)
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


def _fit_guess(quantizer: Quantizer, frames: Frames, num_steps: int) -> tuple[Tensor, Tensor]:
    """Weight (Q * K, D) and bias (Q * K,) that guess the codes of frames less their mean."""
    mean, centers = quantizer.mean, quantizer.centers
    spread = centers.square().mean(dim=1).sum().sqrt().clamp(min=1e-20)
    # Without the other codebooks the nearest entry is the best guess; training improves on it.
    with torch.enable_grad():
        weight = (centers.flatten(0, 1) / spread).requires_grad_()
        bias = (-0.5 * (centers / spread).square().sum(dim=2).flatten()).requires_grad_()
        optimizer = torch.optim.Adam([weight, bias], lr=1e-2)
        batches = shuffled_batches(frames, min(1024, frames.num_frames), seed=0)
        for step in range(num_steps):
            optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / num_steps)
            x = next(batches).to(mean.device)
            codes = quantizer.encode(x, beam_size=4).long()
            logits = F.linear((x - mean) / spread, weight, bias)
            loss = F.cross_entropy(logits.view(-1, centers.shape[1]), codes.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return weight.detach() / spread, bias.detach()


def _centers(state: Mapping[str, Tensor]) -> Tensor:
    for key in _KEYS:
        if key not in state:
            raise ValueError(f"not a state dict of multi_quantization: it has no {key!r}")
    centers = state["centers"].detach().float() * (state["centers_scale"] * _SCALE_SPEED).exp()
    if centers.shape[1] > 256:
        raise ValueError(f"codebooks of {centers.shape[1]} entries do not fit a byte")
    return centers
