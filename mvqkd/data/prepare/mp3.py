"""The length of an MP3 by its frames (ISO 11172-3, 2.4.1; ISO 13818-3 for low rates).

An MP3 that was written to a pipe does not say how long it is. Decoders then divide its size by the
bit rate of the first frame, and stop there: where the rate varies, at any share of the audio.
Where several files were joined, the first one's header says its own length.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import NamedTuple

# By the bits of the header, for layer 3 of MPEG 1 (version 3) and of MPEG 2 and 2.5.
_KBITS = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KBITS_LOW = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_RATES = (44100, 48000, 32000)
_RATE_SHIFTS = {3: 0, 2: 1, 0: 2}
_LENGTHS = (b"Xing", b"Info", b"VBRI")
"""Marks of a frame without audio that says how many follow."""


class Frames(NamedTuple):
    """The audio of an MP3."""

    samples: int
    """Of all frames, with the silence that an encoder adds at both ends."""
    per_frame: int
    says_length: bool
    """Whether a header says how long it is."""


def count_frames(path: Path) -> Frames:
    """Find the frames of an MP3; there are none in other files. An empty file cannot be read."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _count(data)


def _count(data: mmap.mmap) -> Frames:
    place = _after_tags(data)
    kind: tuple[int, int] | None = None
    count, per_frame, says_length = 0, 1152, False
    while 0 <= place <= len(data) - 4:
        found = _frame(data, place)
        if found is None or not _belongs(found, kind, data, place):
            place = data.find(b"\xff", place + 1)
            continue
        if count == 0 and any(mark in data[place : place + found.size] for mark in _LENGTHS):
            says_length = True
        else:
            count += 1
        kind, per_frame = found.kind, found.samples
        place += found.size
    return Frames(count * per_frame, per_frame, says_length)


class _Frame(NamedTuple):
    kind: tuple[int, int]
    """Version and rate, which are those of all frames of a file."""
    size: int
    samples: int


def _after_tags(data: mmap.mmap) -> int:
    """Where ID3v2 tags end."""
    place = 0
    while data[place : place + 3] == b"ID3" and len(data) >= place + 10:
        # 28 bits in four bytes.
        place += 10 + sum(
            (data[place + 6 + i] & 0x7F) << shift for i, shift in enumerate((21, 14, 7, 0))
        )
    return place


def _frame(data: mmap.mmap, place: int) -> _Frame | None:
    """The frame of layer 3 that begins at a byte."""
    if place + 4 > len(data) or data[place] != 0xFF:
        return None
    second, third = data[place + 1], data[place + 2]
    version, layer, kbits, rate = second >> 3 & 3, second >> 1 & 3, third >> 4, third >> 2 & 3
    if second < 0xE0 or version == 1 or layer != 1 or kbits in (0, 15) or rate == 3:
        return None
    table, samples = (_KBITS, 1152) if version == 3 else (_KBITS_LOW, 576)
    hertz = _RATES[rate] >> _RATE_SHIFTS[version]
    padding = third >> 1 & 1
    return _Frame((version, rate), samples // 8 * table[kbits] * 1000 // hertz + padding, samples)


def _belongs(frame: _Frame, kind: tuple[int, int] | None, data: mmap.mmap, place: int) -> bool:
    """Whether what looks like a frame is one: others of its kind are around it."""
    if kind is not None and frame.kind != kind:
        return False
    end = place + frame.size
    following = _frame(data, end)
    # The last one, perhaps with a tag or nothing behind it.
    last = kind is not None and (end >= len(data) or data[end : end + 3] in (b"TAG", b"APE"))
    return last or (following is not None and following.kind == frame.kind)
