"""What one process reads in each step of a training, and of an evaluation."""

from __future__ import annotations

import logging
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mvqkd.data.loading.division import divide_step
from mvqkd.data.loading.limits import BatchLimits, StepSize
from mvqkd.data.loading.plan import REPLAYED, StepPlan, StepStream
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
    before any is used again; and with a `replay_ratio` likewise of replayed utterances, in batches
    of their own. Every epoch has the same number of steps, and steps do not depend on
    the number of processes, nor on the limits of their batches (see `divide_step`).

    Args:
        pool: the utterances.
        step: what a step holds of labelled audio.
        num_buckets: buckets of similar duration.
        seed: of the order.
        unlabelled_ratio: seconds of unlabelled audio to a second of labelled audio in a step; at
            least one utterance.
        replay_ratio: seconds of replayed audio to a second of labelled audio, over all steps; at
            least one utterance in a step.
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
        replay_ratio: float = 0.0,
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
        self._replayed: StepStream | None = None
        if replay_ratio > 0:
            self._replayed = self._replay(replay_ratio, num_buckets, seed)

    def __call__(self, epoch: int, first: int = 0) -> list[list[PlannedBatch]]:
        """The steps of an epoch, which counts from 1; from step `first` (from 0) on."""
        pool, begin = self._pool, (epoch - 1) * self.epoch_steps + first
        steps = self._labelled(epoch)[first:]
        planned = [self._share(pool.labelled[group], labelled=True) for group in steps]
        if self._unlabelled is not None:
            groups = self._unlabelled.stretch(begin, len(steps))
            for batches, group in zip(planned, groups, strict=True):
                batches += self._share(pool.unlabelled[group], labelled=False, last_first=True)
        if self._replayed is not None:
            groups = self._replayed.stretch(begin, len(steps))
            for batches, group in zip(planned, groups, strict=True):
                batches += self._share(pool.replayed[group], labelled=True, last_first=True)
        return planned

    def _replay(self, ratio: float, num_buckets: int, seed: int) -> StepStream:
        pool = self._pool
        seconds, new = pool.seconds[pool.replayed], pool.seconds[pool.labelled].sum()
        sizes = seconds * self.epoch_steps / (ratio * new)
        stream = StepStream(seconds, sizes, num_buckets=num_buckets, seed=seed, stream=REPLAYED)
        logging.info(
            "replayed: %d utterances, %.4g hours; %.3g seconds for each second of other labelled "
            "audio, all of them in %.3g epochs",
            len(seconds),
            seconds.sum() / 3600,
            seconds.sum() / len(stream) * self.epoch_steps / new,
            len(stream) / self.epoch_steps,
        )
        return stream

    def _share(
        self, numbers: NDArray[np.int64], *, labelled: bool, last_first: bool = False
    ) -> list[PlannedBatch]:
        """The batches of this process of a step's utterances."""
        shares = divide_step(
            numbers,
            self._pool.seconds,
            self._pool.targets,
            limits=self._limits,
            world_size=self._world_size,
        )
        # From the other end, so that a small step leaves no process with neither kind.
        rank = self._world_size - 1 - self._rank if last_first else self._rank
        return [PlannedBatch(batch, labelled) for batch in shares[rank]]
