"""Words of a stream as they come, with their latency."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterable
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from mvqkd.geometry import ENCODER_RATE, SAMPLE_RATE
from mvqkd.transcription.interface import FileRecognizer
from mvqkd.transcription.live import ENDPOINTS, EndpointRule, LiveStream, decode_chunk
from mvqkd.transcription.pauses import PAUSES, PauseRule
from mvqkd.transcription.transcript import Segment, Transcript, Word

_SETTLED = 0.4
"""Seconds without a token after which the last word of a segment is taken for complete."""


class Screen:
    """Prints each word once, when the next one has begun, and each segment when it has ended.

    A line of a word has the second at which it ends and the seconds from then until it is printed.
    On a terminal the segment that goes on is the last line, rewritten.

    Args:
        out: where lines go.
    """

    def __init__(self, out: TextIO) -> None:
        self.begin = 0.0
        """Value of `time.monotonic` at the beginning of the audio."""
        self.latencies: list[float] = []
        """Seconds, of each word."""
        self._out = out
        self._terminal = out.isatty()
        self._shown = 0

    def partial(self, words: list[Word], decoded: float) -> None:
        """Words of the segment that goes on; `decoded` are the seconds decoded so far, infinite if
        no word goes on."""
        complete = len(words)
        if words and decoded - words[-1].end < _SETTLED:
            complete -= 1
        self._words(words[:complete])
        if self._terminal:
            line = " ".join(word.text for word in words)[1 - shutil.get_terminal_size().columns :]
            self._out.write(f"\r\x1b[K{line}")
            self._out.flush()

    def final(self, segment: Segment) -> None:
        """A segment that has ended."""
        self._words(segment.words)
        start = "\r\x1b[K" if self._terminal else ""
        print(
            f"{start}[{segment.start:.2f} - {segment.end:.2f}] {segment.text}",
            file=self._out,
            flush=True,
        )
        # The last word of a long segment goes on in the next one.
        self._shown = max(0, self._shown - len(segment.words))

    def _words(self, words: list[Word]) -> None:
        for word in words[self._shown :]:
            latency = time.monotonic() - self.begin - word.end
            self.latencies.append(latency)
            if not self._terminal:
                line = f"{word.end:9.2f} {latency:+6.2f}  {word.text}"
                print(line, file=self._out, flush=True)
        self._shown = max(self._shown, len(words))


def transcribe_live(
    recognizer: FileRecognizer,
    blocks: Iterable[NDArray[np.float32]],
    out: TextIO,
    *,
    name: str,
    rule: EndpointRule = ENDPOINTS,
    pauses: PauseRule | None = PAUSES,
    tail_padding: int = 0,
) -> tuple[Transcript, list[float]]:
    """Transcribe audio while it arrives, until it ends or is interrupted (Ctrl-C).

    Args:
        recognizer: of a streaming model.
        blocks: samples (S,) at 16 kHz as they arrive.
        out: where words go.
        name: of the source.
        rule: where segments end.
        pauses: what separates utterances.
        tail_padding: frames of 10 ms of silence at the end.

    Returns:
        The transcript, and the latency of each word in seconds.
    """
    sessions = recognizer.sessions()
    stream = LiveStream(sessions, recognizer.tokens, rule, pauses=pauses, tail_padding=tail_padding)
    screen = Screen(out)
    transcript = Transcript(name, 0.0)

    def end_segment(words: list[Word]) -> None:
        if words:
            transcript.segments.append(Segment(words))
            screen.final(transcript.segments[-1])

    def decode() -> None:
        while found := decode_chunk(sessions, [stream]):
            for _, update in found:
                end_segment(stream.words(update.final))
                words = stream.words(update.partial)
                decoded = math.inf if stream.is_pausing else stream.decoded / ENCODER_RATE
                screen.partial(words, decoded)

    try:
        for block in blocks:
            if not stream.samples:
                screen.begin = time.monotonic() - len(block) / SAMPLE_RATE
            stream.accept(block)
            decode()
    except KeyboardInterrupt:
        pass
    stream.finish()
    decode()
    end_segment(stream.words(stream.rest()))
    transcript.duration = stream.seconds
    return transcript, screen.latencies
