"""Quantizers of multi_quantization that choose their codes by our arrangement of its refinement.

The package spends most of its time on a CPU on it, moving hundreds of megabytes at a time.
`mvqkd.quantization.multi_quantization.search` does the same within a CPU's caches. For when the
peer's own time is not being measured, so that its errors are known sooner.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from torch import Tensor

from mvqkd.quantization.multi_quantization.search import refine


@contextmanager
def cached_refinement() -> Iterator[None]:
    """Within it, quantizers of multi_quantization (if it is installed) choose codes like that."""
    if importlib.util.find_spec("multi_quantization") is None:
        yield
        return
    from multi_quantization import Quantizer

    @torch.no_grad()
    def within_caches(quantizer: Quantizer, x: Tensor, indexes: Tensor) -> Tensor:
        return refine(x, indexes, quantizer.get_centers())

    with mock.patch.object(Quantizer, "_refine_indexes", within_caches):
        yield
