"""Clipping of gradients that are far out of the ordinary."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

import torch
from torch import nn

_HISTORY = 100
_FEWEST = 10


class GradientClipper:
    """Limits the gradient's norm to a multiple of the median of the last 100 norms.

    A fixed limit fits one loss and one size of step; what is out of the ordinary can be told from
    the norms themselves (as ScaledAdam's clipping, Yao et al. 2024, arXiv 2310.11230, appendix
    A.1). The first 10 steps are not clipped. All processes have the same norms.

    Args:
        ratio: of the limit to the median; 0: no clipping.
        norms: of earlier steps, from `state`.
    """

    def __init__(self, ratio: float, norms: Sequence[float] = ()) -> None:
        self.ratio = ratio
        self._norms = list(norms)

    @property
    def state(self) -> list[float]:
        """The last norms, for a checkpoint."""
        return list(self._norms)

    def __call__(self, parameters: Iterable[nn.Parameter]) -> tuple[float, float]:
        """Clip the gradients; their norm before that, and what they were multiplied with.

        The norm of a gradient that is not finite has no part in later medians.
        """
        limit = math.inf
        if self.ratio and len(self._norms) >= _FEWEST:
            limit = self.ratio * statistics.median(self._norms)
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, limit))
        if not math.isfinite(norm):
            return norm, 1.0
        self._norms = [*self._norms[1 - _HISTORY :], norm]
        return norm, min(1.0, limit / norm) if norm > 0 else 1.0
