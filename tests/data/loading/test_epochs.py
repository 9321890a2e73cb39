"""A step is the same on every machine; what differs is how processes share it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from mvqkd.data.loading.division import divide_step
from mvqkd.data.loading.epochs import TrainingPlan
from mvqkd.data.loading.limits import BatchLimits, StepSize, TargetSizes
from mvqkd.data.loading.pool import TrainingPool
from tests.data.loading.test_plan import utterances

STEP = StepSize(duration=60.0, tokens=250)


def pool(num_labelled: int, num_unlabelled: int = 0) -> TrainingPool:
    seconds, tokens = utterances(num_labelled + num_unlabelled)
    numbers = np.random.default_rng(1).permutation(len(seconds))
    labelled, unlabelled = np.sort(numbers[:num_labelled]), np.sort(numbers[num_labelled:])
    counts = np.zeros(len(seconds), np.int64)
    counts[labelled] = 1
    targets = TargetSizes(counts, tokens)
    return TrainingPool([], seconds, tokens, targets, labelled=labelled, unlabelled=unlabelled)


def plans(
    source: TrainingPool, world_size: int, limits: BatchLimits | None = None, ratio: float = 0.0
) -> list[TrainingPlan]:
    return [
        TrainingPlan(
            source,
            STEP,
            num_buckets=4,
            seed=3,
            unlabelled_ratio=ratio,
            limits=limits,
            rank=rank,
            world_size=world_size,
        )
        for rank in range(world_size)
    ]


def steps_of(ranks: list[TrainingPlan], epoch: int) -> list[tuple[list[int], list[int]]]:
    """Labelled and unlabelled utterances of each step, whoever reads them."""
    found = []
    for shares in zip(*(rank(epoch) for rank in ranks), strict=True):
        batches = [batch for share in shares for batch in share]
        kinds = []
        for kind in (True, False):
            numbers = [batch.numbers for batch in batches if batch.labelled == kind]
            kinds.append(sorted(np.concatenate(numbers).tolist()) if numbers else [])
        found.append((kinds[0], kinds[1]))
    return found


@pytest.mark.parametrize("ratio", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("num", [5, 300])
def test_steps_are_the_same_with_1_2_and_8_processes_and_any_memory(num: int, ratio: float) -> None:
    source = pool(num, 200)
    (alone,) = plans(source, 1, ratio=ratio)
    for world_size, limits in (
        (2, None),
        (8, None),
        (1, BatchLimits(20.0)),
        (3, BatchLimits(40.0, 300)),
    ):
        ranks = plans(source, world_size, limits, ratio)
        assert {rank.epoch_steps for rank in ranks} == {alone.epoch_steps}
        for epoch in (1, 2):
            assert steps_of(ranks, epoch) == steps_of([alone], epoch)


def test_batches_stay_within_the_limits() -> None:
    source = pool(300, 300)
    limits = BatchLimits(duration=25.0, tokens=150)
    for rank in plans(source, 3, limits, ratio=1.0):
        for batches in rank(1):
            for batch in batches:
                seconds, tokens = source.seconds[batch.numbers], source.num_tokens[batch.numbers]
                assert len(batch.numbers) * seconds.max() <= 25.0
                assert not batch.labelled or len(batch.numbers) * tokens.max() <= 150


def test_hypotheses_are_counted_by_the_limit_of_a_batch_and_not_by_that_of_a_step() -> None:
    source = pool(300)
    five = replace(source, targets=TargetSizes(5 * source.targets.counts, source.num_tokens))
    limits = BatchLimits(tokens=700)
    (one,), (several,) = plans(source, 1, limits), plans(five, 1, limits)
    assert steps_of([one], 1) == steps_of([several], 1)
    padded = [
        5 * len(batch.numbers) * int(source.num_tokens[batch.numbers].max())
        for batches in several(1)
        for batch in batches
    ]
    assert 350 < max(padded) <= 700
    assert sum(map(len, several(1))) > 2 * sum(map(len, one(1)))


def test_processes_have_similar_shares() -> None:
    source = pool(2000)
    shares = [
        [
            sum(len(b.numbers) * source.seconds[b.numbers].max() for b in batches)
            for batches in rank(1)
        ]
        for rank in plans(source, 2)
    ]
    per_step = np.array(shares)
    assert np.median(per_step.max(0) / per_step.min(0)) < 1.5


def test_a_process_may_have_no_part_of_a_step() -> None:
    order = np.array([4, 2])
    seconds, targets = np.full(5, 9.0), TargetSizes(np.full(5, 1), np.full(5, 9))
    shares = divide_step(order, seconds, targets, limits=BatchLimits(), world_size=4)
    assert [[batch.tolist() for batch in share] for share in shares] == [[[4]], [[2]], [], []]
    assert divide_step(order[:0], seconds, targets, limits=BatchLimits(), world_size=2) == [[], []]


def test_a_small_step_leaves_no_process_idle_that_has_audio_of_one_kind() -> None:
    source = pool(1, 1)
    first, second = (rank(1)[0] for rank in plans(source, 2, ratio=1.0))
    assert [batch.labelled for batch in first] == [True]
    assert [batch.labelled for batch in second] == [False]


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0])
def test_unlabelled_audio_has_its_share_of_every_step(ratio: float) -> None:
    source = pool(400, 300)
    step = StepSize(duration=60.0, tokens=1000)
    plan = TrainingPlan(source, step, num_buckets=4, seed=3, unlabelled_ratio=ratio)
    drawn: list[int] = []
    shares = []
    for epoch in (1, 2, 3):
        for labelled, unlabelled in steps_of([plan], epoch):
            shares.append(source.seconds[unlabelled].sum() / source.seconds[labelled].sum())
            drawn += unlabelled
    assert np.median(shares) == pytest.approx(ratio, rel=0.2)
    # None twice before all others once, over the ends of epochs.
    for begin in range(0, len(drawn) - 300, 300):
        assert sorted(drawn[begin : begin + 300]) == source.unlabelled.tolist()


def test_the_rest_of_an_epoch_is_that_of_the_whole() -> None:
    (plan,) = plans(pool(100, 100), 1, ratio=1.0)
    whole = steps_of([plan], 3)
    for first in (0, 1, len(whole) - 1, len(whole)):
        rest = plan(3, first)
        assert [[b.numbers.tolist() for b in step] for step in rest] == [
            [b.numbers.tolist() for b in step] for step in plan(3)
        ][first:]


def test_many_tokens_make_a_step_shorter() -> None:
    source = pool(300)
    (both,) = plans(source, 1)
    by_tokens = source.num_tokens.sum() / STEP.tokens
    assert by_tokens > source.seconds.sum() / STEP.duration
    assert math.ceil(by_tokens) <= both.epoch_steps < by_tokens * 1.1 + 4
