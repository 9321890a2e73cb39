"""Hypotheses of utterances in a rectangle, so that what is computed of an utterance is used by all
of its hypotheses without a copy for each."""

from __future__ import annotations

import torch
from torch import Tensor


class HypothesisSlots:
    """Places of K hypotheses in N rows of B slots, row n for the hypotheses of utterance n.

    B is the largest number of hypotheses of an utterance; slots that are left over hold zeros.

    Args:
        owners: (K,) int64: the utterance of each hypothesis, in any order.
        num_utterances: N.
    """

    def __init__(self, owners: Tensor, num_utterances: int) -> None:
        counts = owners.bincount(minlength=num_utterances)
        self.num_utterances = num_utterances
        self.num_slots = max(1, int(counts.max())) if len(owners) else 1
        order = owners.argsort(stable=True)
        first = counts.cumsum(0) - counts
        slot = torch.empty_like(owners)
        slot[order] = torch.arange(len(owners), device=owners.device) - first[owners[order]]
        self._index = owners * self.num_slots + slot

    def spread(self, x: Tensor) -> Tensor:
        """(K, ...) -> (N, B, ...)."""
        rows = x.new_zeros(self.num_utterances * self.num_slots, *x.shape[1:])
        rows = rows.index_copy(0, self._index, x)
        return rows.unflatten(0, (self.num_utterances, self.num_slots))

    def collect(self, x: Tensor) -> Tensor:
        """(N, B, ...) -> (K, ...)."""
        return x.flatten(0, 1)[self._index]
