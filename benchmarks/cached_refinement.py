"""Quantizers of multi_quantization that choose their codes by our arrangement of its refinement.

The package spends most of its time on a CPU on it, moving hundreds of megabytes at a time.
`mvqkd.quantization.reference` does the same within a CPU's caches. For when the peer's own time is
not being measured, so that its errors are known sooner.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from torch import Tensor

from mvqkd.quantization.reference import refine

_FRAMES = 8


@contextmanager
def cached_refinement() -> Iterator[None]:
    """Within it, quantizers of multi_quantization (if it is installed) choose codes like that."""
    if importlib.util.find_spec("multi_quantization") is None:
        yield
        return
    from multi_quantization import Quantizer

    @torch.no_grad()
    def in_parts(quantizer: Quantizer, x: Tensor, indexes: Tensor) -> Tensor:
        centers = quantizer.get_centers()
        parts = zip(x.split(_FRAMES), indexes.split(_FRAMES), strict=True)
        return torch.cat([refine(*part, centers) for part in parts])

    with mock.patch.object(Quantizer, "_refine_indexes", in_parts):
        yield
