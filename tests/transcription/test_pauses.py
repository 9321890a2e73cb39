"""Utterances of audio: found by their levels, whatever the blocks, the gain and the noise."""

from __future__ import annotations

import numpy as np
import pytest

from mvqkd.geometry import SAMPLE_RATE
from mvqkd.transcription.pauses import FRAME, Part, PauseRule, Utterances

RULE = PauseRule(0.4, 0.08)


def spoken(
    gaps: list[float], *, noise: float, gain: float = 1.0, seed: int = 0
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Noise with utterances of 1 to 3 s, whose syllables are 0.2 s with closures of 0.08 s; the
    gaps (seconds) lie before them, and the last one behind. And where they begin and end."""
    random = np.random.default_rng(seed)
    parts, spans, position = [], [], 0
    for number, gap in enumerate(gaps):
        parts.append(np.zeros(round(gap * SAMPLE_RATE)))
        position += len(parts[-1])
        if number == len(gaps) - 1:
            break
        syllables = [
            np.concatenate(
                [0.1 * random.uniform(0.3, 1) * random.standard_normal(3200), np.zeros(1280)]
            )
            for _ in range(int(random.integers(4, 11)))
        ]
        parts.append(np.concatenate(syllables)[:-1280])
        spans.append((position, position + len(parts[-1])))
        position += len(parts[-1])
    samples = np.concatenate(parts)
    samples += noise * random.standard_normal(len(samples))
    return (gain * samples).astype(np.float32), spans


def divided(samples: np.ndarray, block: int, rule: PauseRule | None = RULE) -> list[Part]:
    """Whole utterances, without what belongs to the pauses after them."""
    utterances, whole = Utterances(rule), []
    parts: list[Part] = []
    for begin in range(0, len(samples), block):
        parts += utterances.accept(samples[begin : begin + block])
    for part in (*parts, *utterances.finish()):
        if part.begins:
            whole.append(Part(part.start, part.samples, begins=True))
        else:
            assert part.start == whole[-1].start + len(whole[-1].samples) and not whole[-1].ends
            whole[-1].samples = np.concatenate([whole[-1].samples, part.samples])
        whole[-1].ends = part.ends
        if part.quiet:
            whole[-1].samples = whole[-1].samples[: -part.quiet]
    return whole


@pytest.mark.parametrize("gain", [1.0, 0.03])
@pytest.mark.parametrize("noise", [0.0, 0.001, 0.005])
def test_pauses_separate_utterances(noise: float, gain: float) -> None:
    samples, spans = spoken([0.0, 0.5, 0.6, 2.0, 45.0, 0.7, 0.5], noise=noise, gain=gain)
    found = divided(samples, 100_000)
    assert len(found) == len(spans)
    for part, (begin, end) in zip(found, spans, strict=True):
        assert part.ends and part.start % FRAME == 0
        assert np.array_equal(part.samples, samples[part.start :][: len(part.samples)])
        lead, trail = begin - part.start, part.start + len(part.samples) - end
        assert (lead >= 0.08 * SAMPLE_RATE - 1 or begin == 0) and lead <= 0.2 * SAMPLE_RATE
        assert 0.08 * SAMPLE_RATE - 1 <= trail <= 0.2 * SAMPLE_RATE


def test_blocks_change_nothing() -> None:
    samples, _ = spoken([0.3, 0.5, 0.41, 0.2, 0.6, 1.0], noise=0.003, seed=1)
    expected = divided(samples, len(samples))
    assert len(expected) > 2
    for block in (37, 640, 5000):
        found = divided(samples, block)
        assert [part.start for part in found] == [part.start for part in expected]
        for one, other in zip(found, expected, strict=True):
            assert np.array_equal(one.samples, other.samples)


def test_short_gaps_and_loud_noise_separate_nothing() -> None:
    for gap, noise in ((0.2, 0.001), (0.6, 0.1)):
        samples, _ = spoken([0.0, *[gap] * 6, 0.0], noise=noise)
        (part,) = divided(samples, 3000)
        assert np.array_equal(part.samples, samples)


def test_noise_before_the_first_utterance_is_not_a_part_of_it() -> None:
    """It is not known for noise until something louder has come."""
    samples, ((begin, _),) = spoken([3.0, 0.5], noise=0.003)
    before, utterance = divided(samples, 1000)
    assert before.start == 0 and 0 < begin - utterance.start <= 0.2 * SAMPLE_RATE


def test_clicks_are_no_utterances() -> None:
    samples = np.zeros(5 * SAMPLE_RATE, np.float32)
    samples[::20_000] = 0.5
    assert divided(samples, 4000) == []


def test_samples_that_are_not_finite_are_quiet() -> None:
    samples, spans = spoken([0.0, 1.0, 1.0, 0.0], noise=0.001)
    samples[spans[0][1] + 4000] = np.nan
    assert len(divided(samples, 4000)) == len(spans)


def test_without_a_rule_all_is_one() -> None:
    samples, _ = spoken([0.0, 2.0, 2.0], noise=0.0)
    (part,) = divided(samples, 999, None)
    assert np.array_equal(part.samples, samples) and part.ends
    assert divided(np.zeros(0, np.float32), 1, None) == []
