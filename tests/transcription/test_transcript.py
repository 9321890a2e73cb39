"""Words of tokens, and formats."""

from __future__ import annotations

import html
import itertools
import json
import math
import re

import pytest

from mvqkd.decoding import Hypothesis
from mvqkd.transcription.formats import as_json, as_srt, as_text, as_vtt, cues
from mvqkd.transcription.transcript import (
    Segment,
    Transcript,
    Word,
    emissions,
    segments_of,
    words_of,
)

TOKENS = ["<blk>", "<sos/eos>", "<unk>", "▁CA", "T", "S", "▁", "A", "▁I", "<0xC3>", "<0xA9>"]


def test_words_have_times_and_confidences() -> None:
    found = Hypothesis([3, 4, 6, 7, 8], [10, 12, 20, 21, 30], 0.0, [-0.1, -0.2, 0.0, -0.5, -1.0])
    words = words_of(emissions(found, frame=100), TOKENS)
    assert [word.text for word in words] == ["CAT", "A", "I"]
    assert [(word.start, word.end) for word in words] == [(4.4, 4.52), (4.8, 4.88), (5.2, 5.24)]
    assert [word.confidence for word in words] == pytest.approx(
        [math.exp(-0.3), math.exp(-0.5), math.exp(-1)]
    )


def test_pieces_that_are_no_words() -> None:
    assert words_of(emissions(Hypothesis([6], [1], 0.0)), TOKENS) == []
    (word,) = words_of(emissions(Hypothesis([4, 5, 6], [1, 2, 3], 0.0)), TOKENS)
    assert (word.text, word.confidence) == ("TS", 1.0)  # without log-probabilities
    (word,) = words_of(emissions(Hypothesis([3, 9, 10], [1, 2, 3], 0.0)), TOKENS)
    assert word.text == "CAé"
    (word,) = words_of(emissions(Hypothesis([3, 9], [1, 2], 0.0)), TOKENS)  # half a character
    assert word.text == "CA�"


def test_segments_end_at_pauses() -> None:
    words = [Word("A", 0, 1, 1), Word("B", 1.5, 2, 1), Word("C", 3.2, 4, 0.5)]
    assert [segment.text for segment in segments_of(words, 1.2)] == ["A B", "C"]
    assert len(segments_of(words, 0.5)) == 3
    assert segments_of([], 1.2) == []


def long_transcript() -> Transcript:
    words = [
        Word(f"word{i}" if i % 7 else "R&D<b>" + "x" * (i % 50), 0.4 * i, 0.4 * i + 0.3, 0.9)
        for i in range(400)
    ]
    words += [Word("END", 4000.0, 4000.04, 0.5)]
    return Transcript("a.wav", 4001.0, segments_of(words, 1.2))


def seconds(time: str) -> float:
    hours, minutes, rest = time.replace(",", ".").split(":")
    return 3600 * int(hours) + 60 * int(minutes) + float(rest)


def check_cues(found: list[tuple[str, str, str]]) -> None:
    transcript = long_transcript()
    spans = [(seconds(start), seconds(end)) for start, end, _ in found]
    assert all(start < end for start, end in spans)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
    assert all(end - start <= 6.3 for start, end in spans)
    assert all(len(lines.splitlines()) <= 2 for _, _, lines in found)
    assert " ".join(" ".join(lines.split()) for _, _, lines in found) == transcript.text


def test_srt() -> None:
    blocks = as_srt(long_transcript()).strip().split("\n\n")
    pattern = r"(\d+)\n(\d\d:\d\d:\d\d,\d{3}) --> (\d\d:\d\d:\d\d,\d{3})\n(.+)"
    found = [re.fullmatch(pattern, block, re.S) for block in blocks]
    assert all(found)
    assert [int(match[1]) for match in found] == list(range(1, len(found) + 1))
    check_cues([match.group(2, 3, 4) for match in found])
    assert found[-1][2] == "01:06:40,000" and found[-1][3] == "01:06:40,800"


def test_vtt() -> None:
    head, *blocks = as_vtt(long_transcript()).strip().split("\n\n")
    assert head == "WEBVTT"
    pattern = r"(\d\d:\d\d:\d\d\.\d{3}) --> (\d\d:\d\d:\d\d\.\d{3})\n(.+)"
    found = [re.fullmatch(pattern, block, re.S) for block in blocks]
    assert all(found) and not any("<b>" in match[3] for match in found)
    check_cues([(match[1], match[2], html.unescape(match[3])) for match in found])


def test_text_and_json() -> None:
    transcript = long_transcript()
    assert as_text(transcript).splitlines() == [segment.text for segment in transcript.segments]
    value = json.loads(as_json(transcript))
    assert value["text"] == transcript.text and value["duration"] == 4001.0
    last = value["segments"][-1]
    assert last == {
        "start": 4000.0,
        "end": 4000.04,
        "text": "END",
        "confidence": 0.5,
        "words": [{"word": "END", "start": 4000.0, "end": 4000.04, "confidence": 0.5}],
    }


def test_nothing_recognized() -> None:
    nothing = Transcript("a.wav", 3.0)
    assert (as_text(nothing), as_srt(nothing), as_vtt(nothing)) == ("", "", "WEBVTT\n\n")
    assert json.loads(as_json(nothing))["segments"] == [] and list(cues(nothing)) == []


def test_a_short_word_before_another_one() -> None:
    words = [Word("A", 1.0, 1.04, 1.0), Word("B", 1.3, 1.34, 1.0)]
    found = list(cues(Transcript("", 2.0, [Segment([word]) for word in words])))
    assert [(cue.start, cue.end) for cue in found] == [(1.0, 1.3), (1.3, 2.1)]
