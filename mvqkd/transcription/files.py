"""Transcripts of many files, batched, in memory that does not grow with their lengths."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mvqkd.errors import UserError
from mvqkd.geometry import SAMPLE_RATE
from mvqkd.transcription.audio import AudioFile
from mvqkd.transcription.interface import FileRecognizer
from mvqkd.transcription.live import ENDPOINTS, EndpointRule, LiveStream, decode_chunk
from mvqkd.transcription.pauses import PAUSES, PauseRule
from mvqkd.transcription.transcript import (
    Segment,
    Transcript,
    Word,
    emissions,
    segments_of,
    words_of,
)
from mvqkd.transcription.windows import WINDOWS, Joiner, Window, WindowRule, windows

Result = tuple[AudioFile, "Transcript | UserError"]
"""A file, and its transcript or why there is none."""
Heard = Callable[[float], None]
"""Called with the seconds of audio that have been decoded."""


def transcribe_files(
    recognizer: FileRecognizer,
    files: Iterable[AudioFile],
    *,
    rule: EndpointRule = ENDPOINTS,
    pauses: PauseRule | None = PAUSES,
    window_rule: WindowRule = WINDOWS,
    batch_seconds: float = 240.0,
    tail_padding: int = 0,
    heard: Heard = lambda seconds: None,
) -> Iterator[Result]:
    """Transcripts in the order of the files; a file that cannot be read does not stop the others.

    A streaming model decodes streams in chunks, as many files at once as a batch has windows;
    another one a window for each utterance, and overlapping ones for long utterances.

    Args:
        recognizer: of either kind.
        files: what to transcribe.
        rule: where segments end.
        pauses: what separates utterances; None: a file is one.
        window_rule: how a long utterance is divided for a model with full context.
        batch_seconds: of audio decoded at once, padding included.
        tail_padding: frames of 10 ms of silence at the end, for streaming models that emit late.
        heard: of progress.
    """
    if recognizer.streams:
        size = max(1, round(batch_seconds / (window_rule.longest + 2 * window_rule.margin)))
        return _in_streams(recognizer, iter(files), rule, pauses, size, tail_padding, heard)
    return _in_windows(recognizer, files, rule, pauses, window_rule, batch_seconds, heard)


@dataclass
class _Open:
    """A file that is being decoded as a stream."""

    file: AudioFile
    blocks: Iterator[NDArray[np.float32]]
    stream: LiveStream
    segments: list[Segment] = field(default_factory=list)
    result: Transcript | UserError | None = None

    def add(self, words: list[Word]) -> None:
        if words:
            self.segments.append(Segment(words))


def _in_streams(
    recognizer: FileRecognizer,
    files: Iterator[AudioFile],
    rule: EndpointRule,
    pauses: PauseRule | None,
    size: int,
    tail_padding: int,
    heard: Heard,
) -> Iterator[Result]:
    sessions = recognizer.sessions()
    going: list[_Open] = []  # in the order of the files; some may be done
    while True:
        while sum(each.result is None for each in going) < size and (file := next(files, None)):
            stream = LiveStream(
                sessions, recognizer.tokens, rule, pauses=pauses, tail_padding=tail_padding
            )
            going.append(_Open(file, file.blocks(), stream))
        if not going:
            return
        active = [each for each in going if each.result is None]
        for each in active:
            _feed(each, heard)
        by_stream = {id(each.stream): each for each in active}
        for stream, update in decode_chunk(sessions, [each.stream for each in active]):
            by_stream[id(stream)].add(stream.words(update.final))
        for each in active:
            if each.result is None and each.stream.ended:
                each.add(each.stream.words(each.stream.rest()))
                each.result = Transcript(each.file.name, each.stream.seconds, each.segments)
        while going and going[0].result is not None:
            done = going.pop(0)
            assert done.result is not None
            yield done.file, done.result


def _feed(each: _Open, heard: Heard) -> None:
    """Samples for a chunk, or the end."""
    stream = each.stream
    while not (stream.is_ready or stream.is_due or stream.finished):
        try:
            block = next(each.blocks, None)
        except UserError as error:
            each.result = error
            return
        if block is None:
            stream.finish()
            return
        stream.accept(block)
        heard(len(block) / SAMPLE_RATE)


@dataclass
class _Windows:
    """A file that is being decoded in windows."""

    file: AudioFile
    joiner: Joiner
    words: list[Word] = field(default_factory=list)
    decoded: int = 0
    """Samples up to the last cut."""


def _in_windows(
    recognizer: FileRecognizer,
    files: Iterable[AudioFile],
    rule: EndpointRule,
    pauses: PauseRule | None,
    window_rule: WindowRule,
    batch_seconds: float,
    heard: Heard,
) -> Iterator[Result]:
    waiting: list[tuple[_Windows, Window | UserError]] = []
    longest = 0
    for file in files:
        of_file = _Windows(file, Joiner(window_rule))
        try:
            for window in windows(file.blocks(), window_rule, pauses):
                longest = max(longest, len(window.samples))
                if waiting and longest * (len(waiting) + 1) > batch_seconds * SAMPLE_RATE:
                    yield from _decode(recognizer, waiting, rule, heard)
                    waiting, longest = [], len(window.samples)
                waiting.append((of_file, window))
        except UserError as error:
            waiting.append((of_file, error))
    yield from _decode(recognizer, waiting, rule, heard)


def _decode(
    recognizer: FileRecognizer,
    waiting: Sequence[tuple[_Windows, Window | UserError]],
    rule: EndpointRule,
    heard: Heard,
) -> Iterator[Result]:
    audible = [
        window for _, window in waiting if isinstance(window, Window) and not window.is_silent
    ]
    hypotheses = iter(recognizer.recognize([window.samples for window in audible]))
    for of_file, window in waiting:
        if isinstance(window, UserError):
            yield of_file.file, window
            continue
        words: list[Word] = []
        if not window.is_silent:
            begin = window.begin / SAMPLE_RATE
            words = [
                Word(word.text, word.start + begin, word.end + begin, word.confidence)
                for word in words_of(emissions(next(hypotheses)), recognizer.tokens)
            ]
        of_file.words += of_file.joiner.add(window, words)
        heard((window.cut - of_file.decoded) / SAMPLE_RATE)
        of_file.decoded = window.cut
        if window.is_last:
            segments = segments_of(of_file.words, rule.pause)
            yield of_file.file, Transcript(of_file.file.name, window.cut / SAMPLE_RATE, segments)
