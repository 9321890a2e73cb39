"""The length of an MP3 by its frames (ISO 11172-3, 2.4.1; ISO 13818-3 for low rates).

An MP3 that was written to a pipe does not say how long it is. Decoders then divide its size by the
bit rate of the first frame, and stop there: where the rate varies, at any share of the audio.
"""

from __future__ import annotations

from pathlib import Path

_KBITS = {  # by the bits of the header, for layer 3 of MPEG 1 and of MPEG 2 and 2.5
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = (44100, 48000, 32000)
_LENGTHS = (b"Xing", b"Info", b"VBRI")
"""Marks of the frame that says how many follow."""


def count_samples(path: Path) -> int | None:
    """Samples of all frames of an MP3 without a header of its length; None for other files.

    Silence that the encoder adds at both ends is counted.
    """
    data = path.read_bytes()
    place = 0
    while data[place : place + 3] == b"ID3" and len(data) >= place + 10:
        place += 10 + sum(
            (data[place + 6 + i] & 0x7F) << shift for i, shift in enumerate((21, 14, 7, 0))
        )
    total = 0
    while place + 4 <= len(data):
        frame = _frame(data[place : place + 4])
        if frame is None:
            place = data.find(b"\xff", place + 1)
            if place < 0:
                break
            continue
        size, samples = frame
        if total == 0 and any(mark in data[place : place + size] for mark in _LENGTHS):
            return None
        total += samples
        place += size
    return total or None


def _frame(header: bytes) -> tuple[int, int] | None:
    """Bytes and samples of a frame of layer 3; None where there is none."""
    first, second, third, _ = header
    version, layer = second >> 3 & 3, second >> 1 & 3
    kbits, rate = third >> 4, third >> 2 & 3
    if first != 0xFF or second < 0xE0 or version == 1 or layer != 1:
        return None
    if kbits in (0, 15) or rate == 3:
        return None
    samples = 1152 if version == 3 else 576
    hertz = _RATES[rate] >> {3: 0, 2: 1, 0: 2}[version]
    size = samples // 8 * _KBITS[version == 3][kbits] * 1000 // hertz + (third >> 1 & 1)
    return size, samples
