"""Batching that leaves every row as if it were alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def valid_mask(lens: Tensor, size: int) -> Tensor:
    """(N,) valid lengths -> (N, size) bool, true where a position is valid."""
    return torch.arange(size, device=lens.device) < lens[:, None]


def normalize(waveforms: Tensor, lens: Tensor, eps: float) -> Tensor:
    """Zero mean and unit variance over each row's valid samples; zero in the padding.

    waveforms (N, S), lens (N,) -> (N, S); `eps` is added to the variance.
    """
    valid = valid_mask(lens, waveforms.shape[1])
    centered = waveforms - (waveforms * valid).sum(1, keepdim=True) / lens[:, None]
    centered = centered * valid
    variance = centered.square().sum(1, keepdim=True) / lens[:, None]
    return centered / torch.sqrt(variance + eps)


def by_length(
    function: Callable[[Tensor], dict[Any, Tensor]], x: Tensor, lens: Tensor
) -> dict[Any, Tensor]:
    """Apply a function that padding would disturb to the rows of each length together, unpadded.

    Args:
        function: (n, length, ...) -> named (n, T, D) tensors.
        x: (N, S, ...).
        lens: (N,) valid lengths.

    Returns:
        The named tensors of all rows, (N, T, D), padded with zeros.
    """
    results: list[tuple[Tensor, dict[Any, Tensor]]] = []
    for length in torch.unique(lens).tolist():
        rows = torch.nonzero(lens == length).squeeze(1)
        results.append((rows, function(x[rows, :length])))
    order = torch.argsort(torch.cat([rows for rows, _ in results]))
    merged = {}
    for name in results[0][1]:
        size = max(result[name].shape[1] for _, result in results)
        padded = [
            F.pad(result[name], (0, 0, 0, size - result[name].shape[1])) for _, result in results
        ]
        merged[name] = torch.cat(padded)[order]
    return merged
