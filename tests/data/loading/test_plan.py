from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mvqkd.data.loading.limits import check_fits_batch, fits_step
from mvqkd.data.loading.plan import StepPlan, StepStream, plan_evaluation, split_evenly
from mvqkd.errors import UserError


def utterances(num: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Durations of 1 to 20 seconds, and about 5 tokens a second."""
    random = np.random.default_rng(seed)
    seconds = random.uniform(1, 20, num)
    return seconds, random.poisson(5 * seconds).astype(np.int64)


def plan(seconds: np.ndarray, duration: float = 100.0, **options: Any) -> StepPlan:
    kind = options.pop("kind", StepPlan)
    return kind(seconds, seconds / duration, **({"num_buckets": 5, "seed": 7} | options))


def sets(steps: list[np.ndarray]) -> list[tuple[int, ...]]:
    return [tuple(step.tolist()) for step in steps]


@pytest.mark.parametrize("num", [1, 8, 50, 501])
@pytest.mark.parametrize("duration", [20.0, 100.0, 1e9])
def test_every_utterance_once_in_equally_many_steps(num: int, duration: float) -> None:
    seconds, _ = utterances(num)
    planned = plan(seconds, duration)
    for epoch in (1, 2, 9):
        steps = planned(epoch)
        assert len(steps) == len(planned)
        assert all(len(step) for step in steps)
        np.testing.assert_array_equal(np.sort(np.concatenate(steps)), np.arange(num))


def test_steps_hold_about_the_duration() -> None:
    seconds, _ = utterances(3000)
    planned = plan(seconds, 200.0, num_buckets=10)
    assert 0 <= len(planned) - seconds.sum() / 200.0 <= 10  # one more in each bucket
    held = np.array([seconds[step].sum() for step in planned(1)])
    assert held.max() < 200 + 20
    assert np.quantile(held, 0.05) > 180


def test_is_a_function_of_seed_and_epoch() -> None:
    seconds, _ = utterances(200)
    assert sets(plan(seconds)(1)) == sets(plan(seconds)(1))
    assert sets(plan(seconds)(1)) != sets(plan(seconds)(2))
    assert sets(plan(seconds)(1)) != sets(plan(seconds, seed=8)(1))
    # Not only their order: other utterances meet in a step.
    first, second = ({frozenset(step) for step in sets(plan(seconds)(n))} for n in (1, 2))
    assert len(first & second) < len(first) / 4


def test_buckets_keep_padding_small() -> None:
    seconds, _ = utterances(3000)

    def padding(steps: list[np.ndarray]) -> float:
        padded = sum(len(step) * seconds[step].max() for step in steps)
        return 1 - seconds.sum() / padded

    assert padding(plan(seconds, num_buckets=30)(1)) < 0.1
    assert padding(plan(seconds, num_buckets=1)(1)) > 0.2


def test_groups_of_nearly_equal_size_keep_their_order() -> None:
    sizes = np.array([3.0, 1, 1, 1, 3, 1, 1, 1])
    groups = split_evenly(np.arange(8), sizes, 4)
    assert sets(groups) == [(0,), (1, 2, 3), (4,), (5, 6, 7)]
    # One that outweighs all others would leave groups empty.
    groups = split_evenly(np.arange(4), np.array([100.0, 1, 1, 1]), 3)
    assert sets(groups) == [(0, 1), (2,), (3,)]


def test_a_stream_is_complete_pass_after_pass() -> None:
    seconds, _ = utterances(50)
    stream = plan(seconds, kind=StepStream)
    groups = stream.stretch(0, 3 * len(stream))
    passes = [groups[i * len(stream) : (i + 1) * len(stream)] for i in range(3)]
    for one in passes:
        np.testing.assert_array_equal(np.sort(np.concatenate(one)), np.arange(50))
    assert sets(passes[0]) != sets(passes[1])


def test_a_stream_is_the_same_from_anywhere() -> None:
    seconds, _ = utterances(200)
    stream = plan(seconds, kind=StepStream)
    whole = sets(stream.stretch(0, 300))
    for first, count in ((0, 1), (10, 40), (250, 50), (299, 1)):
        assert sets(stream.stretch(first, count)) == whole[first : first + count]
    assert stream.stretch(5, 0) == []
    assert sets(plan(seconds, kind=StepStream, seed=8).stretch(0, 300)) != whole
    # Nor is it the training's order of the same utterances.
    assert sets(stream.stretch(0, len(stream))) not in [sets(stream(n)) for n in (0, 1)]


def test_a_stream_plans_no_passes_before(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds, _ = utterances(200)
    stream = plan(seconds, kind=StepStream)
    numbers: list[int] = []
    generator = np.random.default_rng

    def counting(key: list[int]) -> np.random.Generator:
        numbers.append(key[1])
        return generator(key)

    monkeypatch.setattr(np.random, "default_rng", counting)
    stream.stretch(40_000 * len(stream) + 1, 2 * len(stream))
    assert len(numbers) == 3
    assert min(numbers) > 10


def within(amounts: str, limit: float) -> list[bool]:
    """Of `long` with 20 seconds, `fast` with 50 tokens in 3 seconds, and 100 others."""
    seconds, tokens = np.array([20.0, 3.0, *[9.97] * 100]), np.array([2, 50, *[10] * 100])
    ids = np.array([b"long", b"fast", *[b"%d" % i for i in range(100)]])
    values = {"duration": seconds, "tokens": tokens}[amounts]
    return fits_step(values, limit, amounts, seconds=seconds, ids=ids).tolist()


def test_utterances_that_no_step_can_hold_are_skipped_and_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert all(within("duration", 20.0)) and all(within("tokens", 50))
    assert not caplog.records
    assert within("duration", 19.0) == [False] + [True] * 101
    assert within("tokens", 49) == [True, False] + [True] * 100
    long, fast = (record.getMessage() for record in caplog.records)
    assert "1 of 102 utterances, 0.00556 of 0.283 hours" in long
    assert "long has 20 (a step_duration of 20" in long
    assert "fast has 50 (a step_tokens of 50" in fast


def test_a_limit_that_much_of_the_audio_exceeds_is_refused() -> None:
    with pytest.raises(UserError, match=r"101 of 102 .*\n.*a step_duration of 20 takes"):
        within("duration", 9.0)
    with pytest.raises(UserError, match=r"101 of 102 .*\n.*a step_tokens of 50 takes"):
        within("tokens", 9)


def test_utterances_that_no_batch_can_hold_are_refused() -> None:
    ids = np.array([b"short", b"long"])
    check_fits_batch(np.array([1.0, 9.0]), 9.0, "duration", ids=ids)
    check_fits_batch(np.array([]), 9.0, "duration", ids=ids[:0])
    with pytest.raises(UserError, match=r"1 of 2 .*batch_duration, 8: long has 9\n.*of 9 or more"):
        check_fits_batch(np.array([1.0, 9.0]), 8.0, "duration", ids=ids)


@pytest.mark.parametrize("world_size", [1, 3])
def test_evaluation_is_ordered_by_length_and_complete(world_size: int) -> None:
    seconds, _ = utterances(100)
    seconds[3] = 500.0  # longer than a batch: alone
    ranks = [
        plan_evaluation(seconds, max_duration=60, rank=r, world_size=world_size)
        for r in range(world_size)
    ]
    assert ranks[0][0].tolist() == [3]
    everything = np.concatenate([batch for batches in ranks for batch in batches])
    assert sorted(everything.tolist()) == list(range(100))
    sizes = [len(batches) for batches in ranks]
    assert max(sizes) - min(sizes) <= 1
    for batches in ranks:
        firsts = [seconds[batch].max() for batch in batches]
        assert firsts == sorted(firsts, reverse=True)
        assert all(len(b) * seconds[b].max() <= 60 for b in batches if 3 not in b)
