"""Messages of sherpa-onnx's streaming WebSocket server, so that its clients fit.

A client sends binary frames of little-endian float32 samples in [-1, 1], and the text `Done` at the
end. They are at 16 kHz, or at the rate that the address says: `ws://host:6006/?sample_rate=48000`.
The server answers with JSON objects, one whenever a segment has changed, and the text `Done!` when
everything has been decoded.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mvqkd.geometry import ENCODER_RATE, SAMPLE_RATE
from mvqkd.transcription.transcript import Emission, Word

DONE, ALL_DONE = "Done", "Done!"
_LOUDEST = 64.0
"""Samples are within [-1, 1], and little above; integers taken for floating point are not."""


class BadInput(Exception):
    """A client sent what cannot be recognized; the session is closed with these words.

    Args:
        reason: at most 123 bytes of UTF-8, which a close frame has room for (RFC 6455, 5.5).
        code: of the close frame (RFC 6455, 7.4.1).
    """

    def __init__(self, reason: str, code: int = 1007) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code


def samples_of(data: bytes) -> NDArray[np.float32]:
    """Samples (S,) of a binary frame.

    Raises:
        BadInput: bytes that are no whole samples, or samples that are not finite or far too large.
    """
    if len(data) % 4:
        raise BadInput(f"{len(data)} bytes are no whole float32 samples")
    samples = np.frombuffer(data, dtype="<f4").astype(np.float32)
    if not np.isfinite(samples).all():
        raise BadInput("samples are not finite float32 numbers")
    if len(samples) and np.abs(samples).max() > _LOUDEST:
        raise BadInput("samples are not float32 in [-1, 1]: divide 16-bit integers by 32768")
    return samples


def rate_of(text: str | None) -> int:
    """Hz of the samples of a session: `sample_rate` of its address, 16000 without one.

    Raises:
        BadInput: it is no number from 8000 to 192000.
    """
    if text is None:
        return SAMPLE_RATE
    if not (text.isascii() and text.isdigit() and 8000 <= int(text[:9]) <= 192_000):
        raise BadInput(f"sample_rate={text[:20]}: it is from 8000 to 192000 Hz", code=1008)
    return int(text)


def result(
    found: Sequence[Emission],
    words: Sequence[Word],
    tokens: Sequence[str],
    *,
    segment: int,
    start: float,
    final: bool = False,
    end: bool = False,
) -> str:
    """JSON of a segment.

    Args:
        found: its tokens so far.
        words: of those.
        tokens: token of each id.
        segment: its number, from 0.
        start: seconds from the beginning of the stream to that of the segment; `timestamps` of
            tokens count from there, `start` and `end` of words from the beginning of the stream.
        final: whether it has ended.
        end: whether the stream has.
    """
    value: dict[str, object] = {
        "text": " ".join(word.text for word in words),
        "tokens": [tokens[emission.token] for emission in found],
        "timestamps": [round(emission.frame / ENCODER_RATE - start, 2) for emission in found],
        "ys_probs": [round(emission.log_prob, 6) for emission in found],
        "segment": segment,
        "start_time": round(start, 2),
        "is_final": final,
        "is_eof": end,
    }
    if final:
        value["words"] = [
            {
                "word": word.text,
                "start": round(word.start, 2),
                "end": round(word.end, 2),
                "confidence": round(word.confidence, 4),
            }
            for word in words
        ]
    return json.dumps(value, ensure_ascii=False)
