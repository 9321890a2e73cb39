"""Windows of long audio, and their words joined."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mvqkd.geometry import SAMPLE_RATE
from mvqkd.transcription.audio import find_audio
from mvqkd.transcription.files import transcribe_files
from mvqkd.transcription.pauses import PauseRule
from mvqkd.transcription.transcript import Transcript, Word
from mvqkd.transcription.windows import Joiner, Window, WindowRule, quietest, windows
from tests.transcription.fakes import NUMBER, Written, utter

RULE = WindowRule(shortest=3.0, longest=6.0, margin=1.5)


def spoken(seed: int, count: int, gap: tuple[float, float]) -> tuple[list[int], np.ndarray]:
    random = np.random.default_rng(seed)
    words = random.integers(1, NUMBER + 1, count).tolist()
    return words, utter(words, random.uniform(*gap, count + 1).tolist())


def pieces(samples: np.ndarray, seed: int = 0) -> Iterator[np.ndarray]:
    random, begin = np.random.default_rng(seed), 0
    while begin < len(samples):
        size = int(random.integers(1, 50_000))
        yield samples[begin : begin + size]
        begin += size


def texts(words: list[int]) -> list[str]:
    return [f"W{word}" for word in words]


def transcribed(
    tmp_path: Path,
    samples: np.ndarray,
    recognizer: Written,
    pauses: PauseRule | None = None,
) -> Transcript:
    soundfile.write(tmp_path / "a.wav", samples, SAMPLE_RATE, subtype="FLOAT")
    ((_, result),) = transcribe_files(
        recognizer,
        find_audio([tmp_path / "a.wav"]),
        pauses=pauses,
        window_rule=RULE,
        batch_seconds=30,
    )
    assert isinstance(result, Transcript), result
    return result


@pytest.mark.parametrize("gap", [(0.02, 0.1), (0.02, 0.6), (1.0, 4.0)])
@pytest.mark.parametrize("unsure", [0.0, 0.7])
def test_every_word_is_there_once(tmp_path: Path, gap: tuple[float, float], unsure: float) -> None:
    words, samples = spoken(1, 300, gap)
    recognizer = Written(unsure)
    if unsure:  # whole audio begins and ends with what is sure
        samples = np.pad(samples, SAMPLE_RATE)
    found = transcribed(tmp_path, samples, recognizer)
    assert [word.text for word in found.words] == texts(words)
    assert found.duration == len(samples) / SAMPLE_RATE
    middles = [(word.start + word.end) / 2 for word in found.words]
    levels = samples[(np.array(middles) * SAMPLE_RATE).astype(int)]
    assert (levels * 256 == words).mean() > 0.95  # a frame is 40 ms, a gap may be shorter
    ends = [word.end for word in found.words]
    assert all(a <= b for a, b in zip(ends, [word.start for word in found.words][1:], strict=False))
    assert max(recognizer.lens) <= (RULE.longest + 2 * RULE.margin) * SAMPLE_RATE
    assert max(recognizer.batches) <= 30 * SAMPLE_RATE


@pytest.mark.parametrize("gap", [(0.02, 0.1), (0.02, 0.9), (1.0, 4.0)])
def test_every_word_of_every_utterance_is_there_once(
    tmp_path: Path, gap: tuple[float, float]
) -> None:
    words, samples = spoken(3, 300, gap)
    recognizer = Written()
    found = transcribed(tmp_path, samples, recognizer, PauseRule(0.4, 0.08))
    assert [word.text for word in found.words] == texts(words)
    assert found.duration == len(samples) / SAMPLE_RATE
    if gap[0] >= 1:  # each word is an utterance, with what it keeps of the pauses around it
        assert len(recognizer.lens) == 300
        assert max(recognizer.lens) <= (0.2 + 2 * 0.12) * SAMPLE_RATE
    levels = samples[[int((word.start + word.end) / 2 * SAMPLE_RATE) for word in found.words]]
    assert (levels * 256 == words).mean() > 0.95


@pytest.mark.parametrize("pauses", [None, PauseRule(0.4, 0.08)])
def test_windows_cover_the_audio_whatever_its_blocks(pauses: PauseRule | None) -> None:
    _, samples = spoken(2, 200, (0.02, 0.6))
    found = list(windows(pieces(samples), RULE, pauses))
    again = list(windows([samples], RULE, pauses))
    assert [(one.begin, one.cut) for one in found] == [(one.begin, one.cut) for one in again]
    cut, is_new = 0, True
    for window, other in zip(found, again, strict=True):
        assert np.array_equal(window.samples, other.samples)
        end = window.begin + len(window.samples)
        assert np.array_equal(window.samples, samples[window.begin : end])
        if is_new:
            assert not samples[cut : window.begin].any()  # nothing but silence is left out
        else:
            assert window.begin == cut - 1.5 * SAMPLE_RATE
        cut, is_new = window.cut, window.is_end
        assert end == cut + (0 if is_new else 1.5 * SAMPLE_RATE)
    assert cut == len(samples)
    assert [window.is_last for window in found] == [False] * (len(found) - 1) + [True]
    assert pauses is None or 20 < sum(window.is_end for window in found) < 190


def test_what_fits_is_one_window() -> None:
    samples = np.ones(round(7.5 * SAMPLE_RATE), np.float32)
    window, last = windows([samples], RULE)
    assert len(window.samples) == len(samples) and window.is_end
    assert last.is_last and last.is_silent and last.cut == len(samples)
    (empty,) = windows([], RULE)
    assert empty.is_silent and empty.is_last


def test_a_cut_is_in_a_pause() -> None:
    random = np.random.default_rng(0)
    samples = random.standard_normal(3 * SAMPLE_RATE).astype(np.float32)
    samples[20_000:24_000] *= 0.01
    assert abs(quietest(samples) - 22_000) < 500
    assert quietest(np.zeros(100, np.float32)) == 50


def test_silence_is_not_decoded(tmp_path: Path) -> None:
    recognizer = Written()
    noise = np.random.default_rng(0).uniform(-2e-4, 2e-4, 60 * SAMPLE_RATE)
    assert transcribed(tmp_path, noise.astype(np.float32), recognizer).words == []
    assert recognizer.lens == []


def test_windows_are_joined_at_the_word_that_both_have() -> None:
    """Times of two windows differ by a frame or two: at the cut alone a word would be there twice,
    or not at all."""
    for shift in (-0.08, 0.08):
        joiner = Joiner(WindowRule(margin=2.0))
        left = [Word(f"W{i}", 8 + 0.5 * i, 8.3 + 0.5 * i, 1.0) for i in range(8)]
        right = [Word(w.text, w.start + shift, w.end + shift, 1.0) for w in left]
        empty = np.zeros(0, np.float32)
        cut = round((left[4].start + left[4].end) / 2 * SAMPLE_RATE)
        found = joiner.add(Window(empty, 0, cut), left)
        found += joiner.add(Window(empty, 1, cut + 10 * SAMPLE_RATE, is_end=True), right)
        assert [word.text for word in found] == [word.text for word in left]
