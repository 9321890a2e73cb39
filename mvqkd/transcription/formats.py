"""Transcripts as text, JSON, SRT and VTT."""

from __future__ import annotations

import html
import json
import textwrap
from collections.abc import Callable, Iterator
from typing import NamedTuple

from mvqkd.transcription.transcript import Segment, Transcript, Word

_LINE = 42
"""Characters of a line of subtitles."""
_LINES = 2
_LONGEST = 6.0
"""Seconds of a subtitle."""
_SHORTEST = 0.8
"""Seconds that a subtitle stays, if the next one lets it."""


class Cue(NamedTuple):
    """One subtitle."""

    start: float
    """Seconds."""
    end: float
    lines: list[str]


def as_text(transcript: Transcript) -> str:
    """A line for each segment."""
    return "".join(f"{segment.text}\n" for segment in transcript.segments)


def as_json(transcript: Transcript) -> str:
    """An object on one line: file, duration, text, segments with words; seconds have three
    decimals."""
    value = {
        "file": transcript.source,
        "duration": round(transcript.duration, 3),
        "text": transcript.text,
        "segments": [_segment(segment) for segment in transcript.segments],
    }
    return json.dumps(value, ensure_ascii=False) + "\n"


def as_srt(transcript: Transcript) -> str:
    """Numbered subtitles (SubRip)."""
    return "".join(
        f"{number}\n{_time(cue.start, ',')} --> {_time(cue.end, ',')}\n"
        + "".join(f"{line}\n" for line in cue.lines)
        + "\n"
        for number, cue in enumerate(cues(transcript), 1)
    )


def as_vtt(transcript: Transcript) -> str:
    """Subtitles of the web (W3C WebVTT)."""
    return "WEBVTT\n\n" + "".join(
        f"{_time(cue.start, '.')} --> {_time(cue.end, '.')}\n"
        + "".join(f"{html.escape(line, quote=False)}\n" for line in cue.lines)
        + "\n"
        for cue in cues(transcript)
    )


FORMATS: dict[str, Callable[[Transcript], str]] = {
    "text": as_text,
    "json": as_json,
    "srt": as_srt,
    "vtt": as_vtt,
}
SUFFIXES = {"text": ".txt", "json": ".json", "srt": ".srt", "vtt": ".vtt"}


def cues(transcript: Transcript) -> Iterator[Cue]:
    """Subtitles of two lines, at most six seconds each, none of which overlap."""
    groups = [group for segment in transcript.segments for group in _groups(segment)]
    starts = [group[0].start for group in groups] + [float("inf")]
    for group, start, following in zip(groups, starts, starts[1:], strict=False):
        end = min(max(group[-1].end, start + _SHORTEST), following)
        yield Cue(start, max(end, start), _lines(group))


def _groups(segment: Segment) -> Iterator[list[Word]]:
    group: list[Word] = []
    for word in segment.words:
        long = group and word.end - group[0].start > _LONGEST
        if long or (group and len(_lines([*group, word])) > _LINES):
            yield group
            group = []
        group.append(word)
    if group:
        yield group


def _lines(words: list[Word]) -> list[str]:
    text = " ".join(word.text for word in words)
    return textwrap.wrap(text, _LINE, break_on_hyphens=False, break_long_words=False)


def _segment(segment: Segment) -> dict[str, object]:
    return {
        "start": round(segment.start, 3),
        "end": round(segment.end, 3),
        "text": segment.text,
        "confidence": round(segment.confidence, 4),
        "words": [
            {
                "word": word.text,
                "start": round(word.start, 3),
                "end": round(word.end, 3),
                "confidence": round(word.confidence, 4),
            }
            for word in segment.words
        ],
    }


def _time(seconds: float, point: str) -> str:
    """`01:02:03,004`."""
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{milliseconds // 1000:02}{point}{milliseconds % 1000:03}"
