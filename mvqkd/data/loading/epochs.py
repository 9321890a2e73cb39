"""What one process reads in each step of a training, and of an evaluation."""

from __future__ import annotations

import logging
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mvqkd.data.loading.division import divide_step
from mvqkd.data.loading.limits import BatchLimits, StepSize
from mvqkd.data.loading.plan import StepPlan, StepStream
from mvqkd.data.loading.pool import TrainingPool


class PlannedBatch(NamedTuple):
    """A batch before its utterances are read."""

    numbers: NDArray[np.int64]
    """(N,) of its utterances."""
    labelled: bool = True
    """Whether it has transcripts."""


class Plan(Protocol):
    """The steps of an epoch, each with the batches that one process reads for it."""

    def __call__(self, epoch: int, first: int = 0) -> list[list[PlannedBatch]]:
        """Of an epoch, from step `first` (from 0) of it on."""
        ...


class TrainingPlan:
    """A `Plan` of one process of a training.

    An epoch is one pass over the labelled utterances, in steps of about `step.duration` seconds or
    `step.tokens` tokens, whichever is reached first. With an `unlabelled_ratio`, each step has its
    share of audio without transcripts too, which goes on from epoch to epoch until all was used,
    before any is used again. Every epoch has the same number of steps, and steps do not depend on
    the number of processes, nor on the limits of their batches (see `divide_step`).

    Args:
        pool: the utterances.
        step: what a step holds of labelled audio.
        num_buckets: buckets of similar duration.
        seed: of the order.
        unlabelled_ratio: seconds of unlabelled audio to a second of labelled audio in a step; at
            least one utterance.
        limits: of a batch.
        rank: of this process.
        world_size: number of training processes.

    Attributes:
        epoch_steps: in an epoch.
    """

    def __init__(
        self,
        pool: TrainingPool,
        step: StepSize,
        *,
        num_buckets: int,
        seed: int,
        unlabelled_ratio: float = 0.0,
        limits: BatchLimits | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} of {world_size}")
        self._pool = pool
        self._limits = limits or BatchLimits()
        self._rank, self._world_size = rank, world_size
        seconds = pool.seconds[pool.labelled]
        sizes = np.maximum(seconds / step.duration, pool.num_tokens[pool.labelled] / step.tokens)
        self._labelled = StepPlan(seconds, sizes, num_buckets=num_buckets, seed=seed)
        self._unlabelled: StepStream | None = None
        if unlabelled_ratio > 0:
            seconds = pool.seconds[pool.unlabelled]
            sizes = seconds / (unlabelled_ratio * step.duration)
            self._unlabelled = StepStream(seconds, sizes, num_buckets=num_buckets, seed=seed)
        self.epoch_steps = len(self._labelled)
        logging.info("%d steps in an epoch", self.epoch_steps)

    def __call__(self, epoch: int, first: int = 0) -> list[list[PlannedBatch]]:
        """The steps of an epoch, which counts from 1; from step `first` (from 0) on."""
        pool = self._pool
        steps = self._labelled(epoch)[first:]
        planned = [self._share(pool.labelled[group], labelled=True) for group in steps]
        if self._unlabelled is not None:
            begin = (epoch - 1) * self.epoch_steps + first
            groups = self._unlabelled.stretch(begin, len(steps))
            for batches, group in zip(planned, groups, strict=True):
                batches += self._share(pool.unlabelled[group], labelled=False)
        return planned

    def _share(self, numbers: NDArray[np.int64], *, labelled: bool) -> list[PlannedBatch]:
        """The batches of this process of a step's utterances."""
        shares = divide_step(
            numbers,
            self._pool.seconds,
            self._pool.targets,
            limits=self._limits,
            world_size=self._world_size,
        )
        # From the other end, so that a small step leaves no process with neither kind.
        rank = self._rank if labelled else self._world_size - 1 - self._rank
        return [PlannedBatch(batch, labelled) for batch in shares[rank]]
