"""What a batch's utterances are trained to be recognized as."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mvqkd.geometry import TARGET_PADDING
from mvqkd.runtime.tensors import map_tensors


class WeightedTokens(NamedTuple):
    """A hypothesis of an utterance."""

    tokens: NDArray[np.int32]
    """(U,) ids."""
    weight: float
    """What its losses are multiplied with."""


@dataclass
class Hypotheses:
    """Token sequences, any number of them for each of the N utterances of a batch.

    The ground truth is one hypothesis of weight 1 for each utterance. `tokens[k, lens[k]:]` is
    -100.
    """

    tokens: Tensor
    """(K, U) int64 token ids."""
    lens: Tensor
    """(K,) int64: valid tokens of each hypothesis."""
    owners: Tensor
    """(K,) int64: the utterance that each hypothesis is of."""
    weights: Tensor
    """(K,) float32: what its losses are multiplied with."""
    one_each: bool
    """Whether hypothesis k is the only one of utterance k, for all k."""

    def __len__(self) -> int:
        return len(self.lens)

    def of_owners(self, x: Tensor) -> Tensor:
        """(N, ...) -> (K, ...): what each hypothesis's utterance has."""
        return x if self.one_each else x[self.owners]

    def owned(self, count: int) -> Tensor:
        """(count,) bool: which of the utterances of a batch have any."""
        owned = torch.zeros(count, dtype=torch.bool, device=self.owners.device)
        owned[self.owners] = True
        return owned

    def first(self, count: int) -> Hypotheses:
        """Those of the first `count` utterances."""
        kept = self.owners < count
        return map_tensors(self, lambda x: x[kept])

    def repeat(self, count: int, num_utterances: int) -> Hypotheses:
        """Of a batch in which its `num_utterances` stand `count` times, one round after another."""
        repeated = map_tensors(self, lambda x: x.repeat(count, *[1] * (x.ndim - 1)))
        rounds = torch.arange(count, device=self.owners.device).repeat_interleave(len(self))
        repeated.owners = repeated.owners + num_utterances * rounds
        return repeated


def ground_truth(tokens: Sequence[np.ndarray]) -> Hypotheses:
    """One hypothesis of weight 1 for each utterance, from N integer arrays (U_n,)."""
    found = weighted([[WeightedTokens(row, 1.0)] for row in tokens])
    assert found is not None
    return found


def weighted(utterances: Sequence[Sequence[WeightedTokens]]) -> Hypotheses | None:
    """The hypotheses of N utterances; None if there are none."""
    rows = [item for items in utterances for item in items]
    if not rows:
        return None
    lens = [len(row.tokens) for row in rows]
    padded = torch.full((len(lens), max(lens)), TARGET_PADDING, dtype=torch.int64)
    for row, (length, item) in zip(padded, zip(lens, rows, strict=True), strict=True):
        row[:length] = torch.as_tensor(np.asarray(item.tokens, dtype=np.int64))
    owners = [n for n, items in enumerate(utterances) for _ in items]
    return Hypotheses(
        tokens=padded,
        lens=torch.tensor(lens),
        owners=torch.tensor(owners),
        weights=torch.tensor([row.weight for row in rows]),
        one_each=owners == list(range(len(utterances))),
    )
