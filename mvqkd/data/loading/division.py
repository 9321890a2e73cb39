"""What each process does of a step: its share, in batches that fit its memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mvqkd.data.loading.limits import BatchLimits, TargetSizes
from mvqkd.data.loading.plan import Groups, split_evenly


def divide_step(
    numbers: NDArray[np.int64],
    seconds: NDArray[np.float64],
    targets: TargetSizes,
    *,
    limits: BatchLimits,
    world_size: int,
) -> list[Groups]:
    """Divide the utterances of a step among processes.

    They are sorted by duration and cut into groups of nearly equal total duration: as few as all
    processes can have equally many of and as the limits allow.

    Args:
        numbers: (M,) utterances of the step, indexes into those that follow.
        seconds: (N,) durations.
        targets: of N utterances.
        limits: of a batch; no single utterance exceeds them.
        world_size: number of processes.

    Returns:
        For each process its batches: arrays of utterance numbers, none empty. A process has none
        where there are fewer utterances than processes.
    """
    order = numbers[np.argsort(-seconds[numbers], kind="stable")]
    each = 1
    while True:
        count = min(each * world_size, len(order))
        batches = split_evenly(order, seconds[order], count) if count else []
        if count == len(order) or all(
            len(batch) * seconds[batch[0]] <= limits.duration
            and targets.padded(batch) <= limits.tokens
            for batch in batches
        ):
            return [batches[rank::world_size] for rank in range(world_size)]
        each += 1
