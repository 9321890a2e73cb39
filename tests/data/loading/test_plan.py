from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mvqkd.data.loading.limits import BatchLimits, within_limit
from mvqkd.data.loading.plan import (
    interleave,
    plan_evaluation,
    plan_training,
    plan_unlabelled,
)
from mvqkd.errors import UserError


def utterances(num: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Durations of 1 to 20 seconds, and about 5 tokens a second."""
    random = np.random.default_rng(seed)
    seconds = random.uniform(1, 20, num)
    return seconds, random.poisson(5 * seconds).astype(np.int64)


def plan(seconds: np.ndarray, tokens: np.ndarray, **options: Any) -> list[np.ndarray]:
    limits = BatchLimits(options.pop("max_duration", 100.0), options.pop("max_tokens", 500))
    defaults: dict[str, Any] = dict(num_buckets=5, seed=7, epoch=1, rank=0, world_size=1)
    return plan_training(seconds, tokens, limits=limits, **(defaults | options))


def sets(batches: list[np.ndarray]) -> list[tuple[int, ...]]:
    return [tuple(batch.tolist()) for batch in batches]


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("num", [8, 50, 501])
@pytest.mark.parametrize("max_duration", [25.0, 100.0, 1e9])
def test_every_utterance_once_within_limit_equally_many_batches(
    num: int, world_size: int, max_duration: float
) -> None:
    seconds, tokens = utterances(num)
    ranks = [
        plan(seconds, tokens, rank=rank, world_size=world_size, max_duration=max_duration)
        for rank in range(world_size)
    ]
    assert len({len(batches) for batches in ranks}) == 1
    everything = np.concatenate([batch for batches in ranks for batch in batches])
    np.testing.assert_array_equal(np.sort(everything), np.arange(num))
    for batches in ranks:
        for batch in batches:
            assert len(batch) * seconds[batch].max() <= max_duration
            assert len(batch) * tokens[batch].max() <= 500


def test_both_limits_bind() -> None:
    seconds, tokens = utterances(300)
    by_duration = plan(seconds, tokens, max_tokens=10**9)
    by_tokens = plan(seconds, tokens, max_duration=1e9)
    assert max(len(b) * tokens[b].max() for b in by_duration) > 500
    assert max(len(b) * seconds[b].max() for b in by_tokens) > 100


def test_is_a_function_of_seed_and_epoch() -> None:
    seconds, tokens = utterances(200)
    assert sets(plan(seconds, tokens)) == sets(plan(seconds, tokens))
    assert sets(plan(seconds, tokens)) != sets(plan(seconds, tokens, epoch=2))
    assert sets(plan(seconds, tokens)) != sets(plan(seconds, tokens, seed=8))
    # Not only their order: other utterances meet in a batch.
    first = {frozenset(batch) for batch in sets(plan(seconds, tokens))}
    second = {frozenset(batch) for batch in sets(plan(seconds, tokens, epoch=2))}
    assert len(first & second) < len(first) / 4


def test_buckets_keep_padding_small() -> None:
    seconds, tokens = utterances(3000)

    def padding(batches: list[np.ndarray]) -> float:
        padded = sum(len(batch) * seconds[batch].max() for batch in batches)
        return 1 - seconds.sum() / padded

    assert padding(plan(seconds, tokens, num_buckets=30)) < 0.1
    assert padding(plan(seconds, tokens, num_buckets=1)) > 0.2


def test_ranks_of_a_step_have_similar_batches() -> None:
    seconds, tokens = utterances(3000)
    ranks = [plan(seconds, tokens, rank=r, world_size=4, num_buckets=30) for r in range(4)]
    longest = np.array([[seconds[batch].max() for batch in batches] for batches in ranks])
    spread = longest.max(0) - longest.min(0)
    assert np.median(spread) < 1.0


def test_single_utterance_batches_that_cannot_be_divided_are_repeated() -> None:
    seconds, tokens = np.full(5, 10.0), np.full(5, 10)
    ranks = [plan(seconds, tokens, max_duration=10.0, rank=r, world_size=4) for r in range(4)]
    assert [len(batches) for batches in ranks] == [2, 2, 2, 2]
    everything = [i for batches in ranks for batch in batches for i in batch.tolist()]
    assert set(everything) == set(range(5))
    assert len(everything) == 8


def test_fewer_utterances_than_processes() -> None:
    with pytest.raises(UserError, match="3 training utterances for 4 processes"):
        plan(np.ones(3), np.ones(3, np.int64), world_size=4)


def within(amounts: str, limit: float) -> list[bool]:
    """Of `long` with 20 seconds, `fast` with 50 tokens in 3 seconds, and 100 others."""
    seconds, tokens = np.array([20.0, 3.0, *[9.97] * 100]), np.array([2, 50, *[10] * 100])
    ids = np.array([b"long", b"fast", *[b"%d" % i for i in range(100)]])
    values = {"duration": seconds, "tokens": tokens}[amounts]
    return within_limit(values, limit, amounts, seconds=seconds, ids=ids).tolist()


def test_utterances_that_no_batch_can_hold_are_left_out_and_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert all(within("duration", 20.0)) and all(within("tokens", 50))
    assert not caplog.records
    assert within("duration", 19.0) == [False] + [True] * 101
    assert within("tokens", 49) == [True, False] + [True] * 100
    long, fast = (record.getMessage() for record in caplog.records)
    assert "1 of 102 utterances, 0.00556 of 0.283 hours" in long
    assert "long has 20 (a max_duration of 20" in long
    assert "fast has 50 (a max_tokens of 50" in fast


def test_a_limit_that_much_of_the_audio_exceeds_is_refused() -> None:
    with pytest.raises(UserError, match=r"101 of 102 .*\n.*a max_duration of 20 takes"):
        within("duration", 9.0)
    with pytest.raises(UserError, match=r"101 of 102 .*\n.*a max_tokens of 50 takes"):
        within("tokens", 9)


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


def stream(seconds: np.ndarray, first: int, count: int, **options: Any) -> list[np.ndarray]:
    defaults: dict[str, Any] = dict(max_duration=100.0, num_buckets=5, seed=7, rank=0, world_size=1)
    return plan_unlabelled(seconds, first=first, count=count, **(defaults | options))


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("num", [8, 50, 501])
@pytest.mark.parametrize("max_duration", [25.0, 100.0, 1e9])
def test_unlabelled_passes_are_complete_one_after_another(
    num: int, world_size: int, max_duration: float
) -> None:
    seconds, _ = utterances(num)
    limits: dict[str, Any] = dict(world_size=world_size, max_duration=max_duration)
    # No batch of a pass is less than half full, but the last of each bucket.
    count = 3 * (5 + int(2 * seconds.sum() / max_duration))
    ranks = [stream(seconds, 0, count, rank=rank, **limits) for rank in range(world_size)]
    # A step is what all ranks do at the same time.
    steps = [np.concatenate(batches) for batches in zip(*ranks, strict=True)]
    passes, seen = [], []
    for step in steps:
        seen += step.tolist()
        if len(seen) >= num:
            passes.append(seen)
            seen = []
    assert len(passes) >= 3
    for one in passes:
        assert sorted(one) == list(range(num))
    if num > 2 * world_size:
        assert passes[0] != passes[1]
    for batches in ranks:
        assert all(len(b) * seconds[b].max() <= max_duration for b in batches)


def test_unlabelled_stream_is_the_same_from_anywhere() -> None:
    seconds, _ = utterances(200)
    whole = sets(stream(seconds, 0, 300))
    for first, count in ((0, 1), (10, 40), (250, 50), (299, 1)):
        assert sets(stream(seconds, first, count)) == whole[first : first + count]
    assert stream(seconds, 5, 0) == []
    assert sets(stream(seconds, 0, 300, seed=8)) != whole
    # Other utterances meet in the batches of another pass.
    length = next(n for n in range(1, 300) if sum(map(len, whole[:n])) == 200)
    first_pass = {frozenset(batch) for batch in whole[:length]}
    second_pass = {frozenset(batch) for batch in whole[length : 2 * length]}
    assert len(first_pass & second_pass) < length / 4


def test_unlabelled_stream_plans_no_passes_before(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds, _ = utterances(200)
    numbers: list[int] = []
    generator = np.random.default_rng

    def counting(key: list[int]) -> np.random.Generator:
        numbers.append(key[1])
        return generator(key)

    length = len(stream(seconds, 0, 1000)) // 10
    monkeypatch.setattr(np.random, "default_rng", counting)
    stream(seconds, 10**6, length)
    assert 1 <= len(numbers) <= 12
    assert min(numbers) > 10


def test_unlabelled_batches_are_nearly_as_full() -> None:
    seconds, _ = utterances(3000)
    even = stream(seconds, 0, 10**4, num_buckets=30)
    length = next(n for n in range(1, 10**4) if sum(map(len, even[:n])) == 3000)
    greedy = plan(seconds, np.zeros(3000, np.int64), num_buckets=30)
    assert length < 1.05 * len(greedy)
    padded = sum(len(batch) * seconds[batch].max() for batch in even[:length])
    assert seconds.sum() / padded > 0.9


def test_fewer_unlabelled_utterances_than_processes() -> None:
    with pytest.raises(UserError, match="3 unlabelled utterances for 4 processes"):
        stream(np.ones(3), 0, 1, world_size=4)


@pytest.mark.parametrize(("num_one", "num_other"), [(10, 10), (10, 3), (7, 100), (4, 0), (1, 2)])
def test_interleaving_keeps_order_and_spreads_evenly(num_one: int, num_other: int) -> None:
    one = [("one", i) for i in range(num_one)]
    other = [("other", i) for i in range(num_other)]
    both = interleave(one, other)
    assert [item for item in both if item[0] == "one"] == one
    assert [item for item in both if item[0] == "other"] == other
    # At no point more than one item from the exact share.
    for n in range(len(both) + 1):
        share = n * num_other / (num_one + num_other)
        assert abs(sum(item[0] == "other" for item in both[:n]) - share) < 1
