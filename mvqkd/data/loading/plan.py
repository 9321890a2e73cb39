"""Which utterances make which batch: the whole epoch planned ahead, as a pure function.

lhotse's DynamicBucketingSampler decides while it reads the manifest, so that resuming reads it
again, and it can save no state with a custom constraint. A plan needs each utterance's seconds and
number of tokens (16 bytes), takes a second or two for a million utterances, is the same on every
rank, and makes resuming a slice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mvqkd.data.loading.limits import BatchLimits
from mvqkd.errors import UserError

Batches = list[NDArray[np.int64]]
_T = TypeVar("_T")

# Not zero: NumPy's seeds [a, b] and [a, b, 0] are the same.
_UNLABELLED = 1


def plan_training(
    seconds: NDArray[np.float64],
    num_tokens: NDArray[np.int64],
    *,
    limits: BatchLimits,
    num_buckets: int,
    seed: int,
    epoch: int,
    rank: int,
    world_size: int,
) -> Batches:
    """The batches of one rank in one epoch.

    Utterances are divided by duration into buckets of equal total duration, shuffled within their
    bucket and packed in that order; the batches are shuffled. In each step the ranks get batches of
    one bucket wherever possible, so that none waits for the others. Every rank has the same number
    of batches: where their number is no multiple of `world_size`, the largest are halved. Over the
    ranks, every utterance is in exactly one batch, unless all batches are single utterances that
    cannot be halved: then up to `world_size - 1` of them are repeated.

    Args:
        seconds: (N,) durations.
        num_tokens: (N,) tokens.
        limits: of a batch.
        num_buckets: number of buckets.
        seed: of the shuffling, together with `epoch`.
        epoch: counts from 1.
        rank: of this process.
        world_size: number of processes. Another number gives other batches.

    Returns:
        Arrays of utterance numbers (indexes into `seconds`).

    Raises:
        UserError: there are fewer utterances than processes.
    """
    _check_ranks(len(seconds), "training", rank, world_size)
    return _share(
        _buckets(seconds, num_buckets),
        lambda order: _pack(order, seconds, num_tokens, limits),
        np.random.default_rng([seed, epoch]),
        rank=rank,
        world_size=world_size,
    )


def plan_unlabelled(
    seconds: NDArray[np.float64],
    *,
    first: int,
    count: int,
    max_duration: float,
    num_buckets: int,
    seed: int,
    rank: int,
    world_size: int,
) -> Batches:
    """A stretch of one rank's endless stream of batches without transcripts.

    The stream is one pass over the utterances after another, each shuffled and shared among the
    ranks as `plan_training` does. The batches of a bucket have as many utterances as its longest
    would allow, whichever utterances meet, so that all passes have the same number of batches: the
    pass that batch `first` is in is found without planning those before it.

    Args:
        seconds: (N,) durations.
        first: number of the first batch in the stream, from 0.
        count: number of batches.
        max_duration: limit of batch size x longest utterance, in seconds.
        num_buckets: number of buckets.
        seed: of the shuffling, together with the number of the pass.
        rank: of this process.
        world_size: number of processes. Another number gives other batches.

    Returns:
        `count` arrays of utterance numbers (indexes into `seconds`).

    Raises:
        UserError: there are fewer utterances than processes.
    """
    _check_ranks(len(seconds), "unlabelled", rank, world_size)
    buckets = _buckets(seconds, num_buckets)

    def pack(order: NDArray[np.int64]) -> Batches:
        size = max(1, int(max_duration // seconds[order].max()))
        return np.array_split(order, -(-len(order) // size))

    # Filling the last step up to world_size batches adds no more than are missing.
    length = -(-sum(len(pack(bucket)) for bucket in buckets) // world_size)
    batches: Batches = []
    while len(batches) < count:
        number, offset = divmod(first + len(batches), length)
        random = np.random.default_rng([seed, number, _UNLABELLED])
        whole = _share(buckets, pack, random, rank=rank, world_size=world_size)
        batches += whole[offset : offset + count - len(batches)]
    return batches


def interleave(one: list[_T], other: list[_T]) -> list[_T]:
    """Both lists in one, each in its order and spread evenly over the whole.

    Which list an item comes from depends on the lengths alone.
    """
    # Item i of n lies at (i + 1/2) / n of the whole; both sides multiplied by 2 len(one) len(other)
    # are whole numbers.
    places = np.concatenate(
        [
            (2 * np.arange(len(one)) + 1) * len(other),
            (2 * np.arange(len(other)) + 1) * len(one),
        ]
    )
    both = one + other
    return [both[i] for i in np.argsort(places, kind="stable")]


def plan_evaluation(
    seconds: NDArray[np.float64],
    *,
    max_duration: float,
    rank: int = 0,
    world_size: int = 1,
) -> Batches:
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
    no_tokens = np.zeros(len(seconds), dtype=np.int64)
    limits = BatchLimits(max_duration=max_duration, max_tokens=0)
    return _pack(order, seconds, no_tokens, limits)[rank::world_size]


def _check_ranks(num_utterances: int, kind: str, rank: int, world_size: int) -> None:
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} of {world_size}")
    if num_utterances < world_size:
        raise UserError(
            f"{num_utterances} {kind} utterances for {world_size} processes",
            remedy="use fewer processes or more data",
        )


def _share(
    buckets: Batches,
    pack: Callable[[NDArray[np.int64]], Batches],
    random: np.random.Generator,
    *,
    rank: int,
    world_size: int,
) -> Batches:
    """Shuffle and pack the buckets; the batches of one rank, as `plan_training` describes."""
    steps: list[Batches] = []  # world_size batches each
    left: Batches = []
    for bucket in buckets:
        batches = pack(random.permutation(bucket))
        # Those that are left are a random choice: a bucket's last batch is smaller than the others.
        batches = [batches[i] for i in random.permutation(len(batches))]
        whole = len(batches) - len(batches) % world_size
        steps += [batches[i : i + world_size] for i in range(0, whole, world_size)]
        left += batches[whole:]
    left = _fill_last_step(left, steps, world_size)
    steps += [left[i : i + world_size] for i in range(0, len(left), world_size)]
    return [steps[i][rank] for i in random.permutation(len(steps))]


def _buckets(seconds: NDArray[np.float64], num_buckets: int) -> Batches:
    """Utterance numbers, in buckets of equal total duration."""
    order = np.argsort(seconds, kind="stable")
    total = np.cumsum(seconds[order])
    ends = np.searchsorted(total, total[-1] * np.arange(1, num_buckets) / num_buckets)
    return [bucket for bucket in np.split(order, ends) if len(bucket)]


def _pack(
    order: NDArray[np.int64],
    seconds: NDArray[np.float64],
    num_tokens: NDArray[np.int64],
    limits: BatchLimits,
) -> Batches:
    """Cut `order` into batches whose padded seconds and tokens stay within the limits."""
    ends: list[int] = []
    size, longest, most = 0, 0.0, 0
    # Plain numbers: indexing NumPy arrays one by one takes several times as long.
    for i, (duration, tokens) in enumerate(
        zip(seconds[order].tolist(), num_tokens[order].tolist(), strict=True)
    ):
        longest, most = max(longest, duration), max(most, tokens)
        padded = ((size + 1) * longest, (size + 1) * most)
        if size and (padded[0] > limits.max_duration or padded[1] > limits.max_tokens):
            ends.append(i)
            size, longest, most = 0, duration, tokens
        size += 1
    return np.split(order, ends) if len(order) else []


def _fill_last_step(left: Batches, steps: list[Batches], world_size: int) -> Batches:
    """Halve the largest batches until their number is a multiple of `world_size`.

    When those `left` are single utterances, steps are taken apart too (removed from `steps`).
    """
    left = list(left)
    while len(left) % world_size:
        largest = max(range(len(left)), key=lambda i: len(left[i]))
        half = len(left[largest]) // 2
        if half:
            left.append(left[largest][half:])
            left[largest] = left[largest][:half]
            continue
        wide = [i for i, step in enumerate(steps) if any(len(batch) > 1 for batch in step)]
        left += steps.pop(wide[-1]) if wide else left[: -len(left) % world_size]
    return left
