"""Which utterances make which step: the whole epoch planned ahead, as a pure function.

lhotse's DynamicBucketingSampler decides while it reads the manifest, so that resuming reads it
again, and it can save no state with a custom constraint. A plan needs each utterance's seconds and
number of tokens (16 bytes), takes a second or two for a million utterances, and makes resuming a
slice. It knows no processes: what they do with a step is `mvqkd.data.loading.division`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Groups = list[NDArray[np.int64]]

UNLABELLED, REPLAYED = 1, 2
"""Streams of a training. Not zero: NumPy's seeds [a, b] and [a, b, 0] are the same."""


class StepPlan:
    """Shuffled steps, the same number in every epoch.

    Utterances are divided by duration into buckets of equal total duration, shuffled within their
    bucket and divided in that order into groups of nearly equal size; the groups are shuffled.
    Every utterance is in one step of an epoch.

    Args:
        seconds: (N,) durations.
        sizes: (N,) what part of a step each utterance takes, at most 1.
        num_buckets: number of buckets.
        seed: of the shuffling, together with the epoch.
    """

    def __init__(
        self,
        seconds: NDArray[np.float64],
        sizes: NDArray[np.float64],
        *,
        num_buckets: int,
        seed: int,
    ) -> None:
        self._sizes = sizes
        self._seed = seed
        self._buckets = _buckets(seconds, num_buckets)
        self._counts = [
            min(len(bucket), int(np.ceil(sizes[bucket].sum() - 1e-9))) for bucket in self._buckets
        ]

    def __len__(self) -> int:
        """Steps in an epoch."""
        return sum(self._counts)

    def __call__(self, epoch: int) -> Groups:
        """The steps of an epoch (from 1): arrays of utterance numbers, indexes into `seconds`."""
        return self._shuffled([self._seed, epoch])

    def _shuffled(self, seed: list[int]) -> Groups:
        random = np.random.default_rng(seed)
        steps: Groups = []
        for bucket, count in zip(self._buckets, self._counts, strict=True):
            order = random.permutation(bucket)
            steps += split_evenly(order, self._sizes[order], count)
        return [steps[i] for i in random.permutation(len(steps))]


class StepStream(StepPlan):
    """An endless stream of groups of utterances: one pass over them after another, each shuffled
    as `StepPlan` does; all passes have the same number of groups.

    Args:
        seconds, sizes, num_buckets, seed: see `StepPlan`; sizes may be above 1.
        stream: number of the stream, of which each is shuffled in its own way.
    """

    def __init__(
        self,
        seconds: NDArray[np.float64],
        sizes: NDArray[np.float64],
        *,
        num_buckets: int,
        seed: int,
        stream: int = UNLABELLED,
    ) -> None:
        super().__init__(seconds, sizes, num_buckets=num_buckets, seed=seed)
        self._stream = stream

    def stretch(self, first: int, count: int) -> Groups:
        """`count` groups from number `first` (from 0) on; found without those before."""
        groups: Groups = []
        while len(groups) < count:
            number, offset = divmod(first + len(groups), len(self))
            whole = self._shuffled([self._seed, number, self._stream])
            groups += whole[offset : offset + count - len(groups)]
        return groups


def split_evenly(order: NDArray[np.int64], sizes: NDArray[np.float64], count: int) -> Groups:
    """Divide utterances, in their order, into `count` groups of nearly equal size; none is empty
    where there are enough utterances.

    Args:
        order: (N,) utterances.
        sizes: (N,) of each.
        count: of groups.
    """
    middles = np.cumsum(sizes) - sizes / 2
    groups = (middles * (count / sizes.sum())).astype(np.int64) if len(order) else order
    ends = np.searchsorted(groups, np.arange(1, count))
    borders = np.concatenate([[0], ends, [len(order)]])
    if (np.diff(borders) == 0).any():  # utterances of very different sizes
        return np.array_split(order, count)
    return np.split(order, ends)


def plan_evaluation(
    seconds: NDArray[np.float64],
    *,
    max_duration: float,
    rank: int = 0,
    world_size: int = 1,
) -> Groups:
    """Batches of one rank, longest utterances first: memory runs out at once or never.

    Every utterance is in one batch of one rank; ranks may have different numbers of batches.

    Args:
        seconds: (N,) durations.
        max_duration: limit of batch size x longest utterance, in seconds; a longer utterance is a
            batch of its own.
        rank: of this process.
        world_size: number of processes.
    """
    order = np.argsort(-seconds, kind="stable")
    durations = seconds[order].tolist()
    ends: list[int] = []
    begin = 0
    for i in range(1, len(order)):  # sorted: the first of a batch is its longest
        if (i - begin + 1) * durations[begin] > max_duration:
            ends.append(i)
            begin = i
    batches = np.split(order, ends) if len(order) else []
    return batches[rank::world_size]


def _buckets(seconds: NDArray[np.float64], num_buckets: int) -> Groups:
    """Utterance numbers, in buckets of equal total duration."""
    order = np.argsort(seconds, kind="stable")
    total = np.cumsum(seconds[order])
    ends = np.searchsorted(total, total[-1] * np.arange(1, num_buckets) / num_buckets)
    return [bucket for bucket in np.split(order, ends) if len(bucket)]
