from __future__ import annotations

import math

import numpy as np
import pytest

from mvqkd.evaluation.bootstrap import speakers, wer_difference, wer_interval
from mvqkd.evaluation.wer import ErrorCounts


def one_word_utterances(errors: np.ndarray) -> list[ErrorCounts]:
    return [ErrorCounts(substitutions=int(error), words=1) for error in errors]


def test_interval_of_independent_words_is_that_of_a_proportion() -> None:
    """With one word per utterance the resampled rate is binomial: p +- 1.96 sqrt(p (1 - p) / n)."""
    n, p = 2000, 0.1
    errors = np.zeros(n)
    errors[: int(n * p)] = 1
    low, high = wer_interval(one_word_utterances(errors))
    half = 100 * 1.96 * math.sqrt(p * (1 - p) / n)
    assert low == pytest.approx(10 - half, abs=0.1)
    assert high == pytest.approx(10 + half, abs=0.1)


def test_intervals_cover_the_truth() -> None:
    """95 % intervals of 400 corpora with a known rate: 380 +- 3 standard deviations (4.4) cover."""
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(400):
        errors = rng.random(150) < 0.3
        low, high = wer_interval(one_word_utterances(errors), samples=500, seed=trial)
        covered += low <= 30.0 <= high
    assert 367 <= covered <= 393


def test_seed_decides() -> None:
    counts = [ErrorCounts(substitutions=n % 3, words=5 + n % 7) for n in range(100)]
    assert wer_interval(counts, seed=1) == wer_interval(counts, seed=1)
    assert wer_interval(counts, seed=1) != wer_interval(counts, seed=2)


def test_blocks_that_err_together_widen_the_interval() -> None:
    """Ten speakers, each all right or all wrong: as ten utterances of one word."""
    counts = one_word_utterances(np.repeat([1, 0, 0, 0, 1, 0, 0, 1, 0, 0], 50))
    blocks = [str(n // 50) for n in range(500)]
    by_speaker = wer_interval(counts, blocks=blocks)
    ten = one_word_utterances(np.array([1, 0, 0, 0, 1, 0, 0, 1, 0, 0]))
    assert by_speaker == pytest.approx(wer_interval(ten), abs=1e-9)
    by_utterance = wer_interval(counts)
    assert by_speaker.high - by_speaker.low > 5 * (by_utterance.high - by_utterance.low)


def test_errors_and_words_of_a_block_are_added_up() -> None:
    counts, sums = (
        [ErrorCounts(substitutions=errors, words=words) for errors, words in table]
        for table in (
            [(1, 5), (2, 3), (0, 7), (0, 1), (0, 1), (0, 3)],
            [(1, 6), (2, 4), (0, 10)],
        )
    )
    assert wer_interval(counts, blocks=list("abcabc")) == wer_interval(sums)


def test_nothing_to_resample() -> None:
    assert all(math.isnan(bound) for bound in wer_interval([]))
    assert all(math.isnan(bound) for bound in wer_interval([ErrorCounts(insertions=3)] * 4))
    # Corpora in which words are rare: resamples without any word are left out.
    mixed = [ErrorCounts(insertions=1), ErrorCounts(substitutions=1, words=2)]
    low, high = wer_interval(mixed)
    assert 50.0 <= low <= high < math.inf


def test_paired_difference_is_narrower_than_two_intervals() -> None:
    """The same hard utterances fail in both systems; pairing takes that out."""
    rng = np.random.default_rng(2)
    hard = rng.random(1000) < 0.3
    first = one_word_utterances(hard & (rng.random(1000) < 0.9))
    second = one_word_utterances(hard)
    difference = wer_difference(first, second)
    gap = sum(c.errors for c in first) - sum(c.errors for c in second)
    assert difference.difference == pytest.approx(100 * gap / 1000)
    assert difference.interval.low < difference.difference < difference.interval.high < 0
    assert difference.better > 0.99
    mirrored = wer_difference(second, first)
    assert mirrored.difference == -difference.difference
    assert mirrored.better == pytest.approx(1 - difference.better)
    alone = wer_interval(first)
    assert difference.interval.high - difference.interval.low < alone.high - alone.low


def test_equal_systems_do_not_differ() -> None:
    counts = one_word_utterances(np.arange(50) % 2)
    difference = wer_difference(counts, counts)
    assert (difference.difference, difference.interval, difference.better) == (0.0, (0.0, 0.0), 0.5)
    assert math.isnan(wer_difference([], []).difference)


def test_bad_input_is_refused() -> None:
    one, two = [ErrorCounts(words=1)], [ErrorCounts(words=2)]
    with pytest.raises(ValueError, match="different references"):
        wer_difference(one, two)
    with pytest.raises(ValueError, match="blocks"):
        wer_interval(one, blocks=["a", "b"])
    with pytest.raises(ValueError, match="level"):
        wer_interval(one, level=95)


def test_speakers() -> None:
    assert speakers(["1034-121119-0005", "84-1-0_sp0.9"]) == ["1034", "84"]
    assert speakers(["1034-121119-0005", "noise_3"]) is None
