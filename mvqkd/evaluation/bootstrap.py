"""Bootstrap confidence intervals of word error rates.

Bisani and Ney 2004, "Bootstrap estimates for confidence intervals in ASR performance evaluation":
utterances are drawn with replacement, errors and words are summed, and the quantiles of the
resampled rates bound the interval. Utterances of one speaker have errors in common; drawing whole
speakers (blocks) accounts for that (Liu and Peng 2020, arXiv 1912.09508) and gives wider intervals.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mvqkd.evaluation.wer import ErrorCounts

SAMPLES = 10000
LEVEL = 0.95
_LIBRISPEECH_ID = re.compile(r"(\d+)-\d+-\d+(_sp[\d.]+)?$")


class ConfidenceInterval(NamedTuple):
    """Bounds in percent; nan when there are no words."""

    low: float
    high: float


class Difference(NamedTuple):
    """Word error rate of one system minus that of another, on the same utterances, in percent."""

    difference: float
    interval: ConfidenceInterval
    better: float
    """Fraction of the resampled corpora on which the first system is better; ties count half."""


def speakers(ids: Sequence[str]) -> list[str] | None:
    """The speaker of each LibriSpeech utterance `<speaker>-<chapter>-<number>`; None if an id has
    another form."""
    matches = [_LIBRISPEECH_ID.match(utterance) for utterance in ids]
    return [match[1] for match in matches if match] if all(matches) else None


def wer_interval(
    counts: Sequence[ErrorCounts],
    *,
    blocks: Sequence[str] | None = None,
    samples: int = SAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> ConfidenceInterval:
    """Confidence interval of a corpus's word error rate.

    Args:
        counts: of each utterance.
        blocks: the speaker (or session) of each utterance: blocks are resampled instead of
            utterances.
        samples: resampled corpora.
        level: probability that the interval covers.
        seed: of the resampling.

    Raises:
        ValueError: blocks and counts differ in length, or level is not between 0 and 1.
    """
    table = np.array([(count.errors, count.words) for count in counts], dtype=np.float64)
    sums = _resample(table.reshape(-1, 2), blocks, samples, seed)
    return _quantiles(_rates(sums[:, 0], sums[:, 1]), level)


def wer_difference(
    first: Sequence[ErrorCounts],
    second: Sequence[ErrorCounts],
    *,
    blocks: Sequence[str] | None = None,
    samples: int = SAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Difference:
    """Paired bootstrap: both systems are measured on the same resampled corpora.

    Args:
        first: counts of each utterance with one system.
        second: with the other, in the same order.
        blocks: as for `wer_interval`.
        samples: resampled corpora.
        level: probability that the interval covers.
        seed: of the resampling.

    Raises:
        ValueError: the systems were not measured on the same references.
    """
    if [count.words for count in first] != [count.words for count in second]:
        raise ValueError("the systems were measured on different references")
    table = np.array(
        [(a.errors, b.errors, a.words) for a, b in zip(first, second, strict=True)],
        dtype=np.float64,
    ).reshape(-1, 3)
    total = table.sum(0)
    sums = _resample(table, blocks, samples, seed)
    differences = _rates(sums[:, 0] - sums[:, 1], sums[:, 2])
    better = np.mean(differences < 0) + 0.5 * np.mean(differences == 0) if len(differences) else 0.5
    observed = 100.0 * (total[0] - total[1]) / total[2] if total[2] else math.nan
    return Difference(float(observed), _quantiles(differences, level), float(better))


def _resample(
    table: NDArray[np.float64], blocks: Sequence[str] | None, samples: int, seed: int
) -> NDArray[np.float64]:
    """Column sums of resampled rows, (samples, columns)."""
    if blocks is not None:
        if len(blocks) != len(table):
            raise ValueError(f"{len(blocks)} blocks for {len(table)} utterances")
        _, which = np.unique(np.asarray(blocks, dtype=str), return_inverse=True)
        grouped = np.zeros((which.max() + 1 if len(which) else 0, table.shape[1]))
        np.add.at(grouped, which, table)
        table = grouped
    sums = np.zeros((samples, table.shape[1]))
    if not len(table):
        return sums
    generator = np.random.default_rng(seed)
    step = max(1, 1_000_000 // len(table))  # bounds the memory
    for begin in range(0, samples, step):
        end = min(begin + step, samples)
        drawn = generator.integers(0, len(table), size=(end - begin, len(table)))
        sums[begin:end] = table[drawn].sum(1)
    return sums


def _rates(errors: NDArray[np.float64], words: NDArray[np.float64]) -> NDArray[np.float64]:
    """Percent, of the resampled corpora that have words."""
    return 100.0 * errors[words > 0] / words[words > 0]


def _quantiles(rates: NDArray[np.float64], level: float) -> ConfidenceInterval:
    if not 0 < level < 1:
        raise ValueError(f"level={level} must lie between 0 and 1")
    if not len(rates):
        return ConfidenceInterval(math.nan, math.nan)
    low, high = np.quantile(rates, [(1 - level) / 2, (1 + level) / 2])
    return ConfidenceInterval(float(low), float(high))
