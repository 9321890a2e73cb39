"""The batches of each epoch of a training, and of an evaluation."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mvqkd.data.loading.limits import BatchLimits
from mvqkd.data.loading.plan import interleave, plan_training, plan_unlabelled
from mvqkd.data.loading.pool import TrainingPool


class PlannedBatch(NamedTuple):
    """A batch before its utterances are read."""

    numbers: NDArray[np.int64]
    """(N,) of its utterances."""
    labelled: bool = True
    """Whether it has transcripts."""


Plan = Callable[[int], list[PlannedBatch]]
"""The batches of an epoch, given its number."""


class TrainingPlan:
    """A `Plan` of one process: shuffled batches, see `plan_training` for how they are made.

    An epoch is one pass over the labelled utterances. With an `unlabelled_ratio`, batches without
    transcripts are spread evenly among its batches, at the same steps on every rank, and go on from
    epoch to epoch until all were seen, before any is seen again (see `plan_unlabelled`).

    Args:
        pool: the utterances.
        limits: of a batch.
        num_buckets: buckets of similar duration.
        seed: of the order.
        unlabelled_ratio: unlabelled batches to a labelled one. The number of unlabelled batches is
            that of the first epoch in all epochs, while labelled ones may be a few more or less.
        rank: of this process.
        world_size: number of training processes; each gets the same number of batches.
    """

    def __init__(
        self,
        pool: TrainingPool,
        limits: BatchLimits,
        *,
        num_buckets: int,
        seed: int,
        unlabelled_ratio: float = 0.0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._pool = pool
        self._limits = limits
        self._num_buckets = num_buckets
        self._seed = seed
        self._rank, self._world_size = rank, world_size
        self._num_unlabelled = 0
        if unlabelled_ratio > 0:
            # Of the first epoch: with as many in all, where an epoch begins in the stream needs no
            # plan of those before it.
            self._num_unlabelled = max(1, round(unlabelled_ratio * len(self._labelled(1))))
            logging.info("unlabelled: %d batches in an epoch of this process", self._num_unlabelled)

    def __call__(self, epoch: int) -> list[PlannedBatch]:
        """The batches of an epoch, which counts from 1."""
        if not self._num_unlabelled:
            return self._labelled(epoch)
        return interleave(self._labelled(epoch), self._unlabelled(epoch))

    def _labelled(self, epoch: int) -> list[PlannedBatch]:
        numbers = self._pool.labelled
        batches = plan_training(
            self._pool.seconds[numbers],
            self._pool.num_tokens[numbers],
            limits=self._limits,
            num_buckets=self._num_buckets,
            seed=self._seed,
            epoch=epoch,
            rank=self._rank,
            world_size=self._world_size,
        )
        return [PlannedBatch(numbers[batch]) for batch in batches]

    def _unlabelled(self, epoch: int) -> list[PlannedBatch]:
        numbers = self._pool.unlabelled
        batches = plan_unlabelled(
            self._pool.seconds[numbers],
            first=(epoch - 1) * self._num_unlabelled,
            count=self._num_unlabelled,
            max_duration=self._limits.max_duration,
            num_buckets=self._num_buckets,
            seed=self._seed,
            rank=self._rank,
            world_size=self._world_size,
        )
        return [PlannedBatch(numbers[batch], labelled=False) for batch in batches]
