"""Audio that arrives while it is transcribed: a microphone, a pipe, a file played in real time."""

from __future__ import annotations

import queue
import shutil
import struct
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mvqkd.errors import UserError
from mvqkd.features.online_resample import OnlineResample
from mvqkd.geometry import SAMPLE_RATE

BLOCK = 0.1
"""Seconds of a block."""
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
"""Codes of formats in WAV headers."""


def in_real_time(blocks: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    """Blocks of samples at 16 kHz, each when a microphone would have given it."""
    begin, given = time.monotonic(), 0
    size = round(BLOCK * SAMPLE_RATE)
    for block in blocks:
        for part in np.split(block, range(size, len(block), size)):
            given += len(part)
            time.sleep(max(0.0, begin + given / SAMPLE_RATE - time.monotonic()))
            yield part


def microphone(device: str | None = None) -> Iterator[NDArray[np.float32]]:
    """Blocks of samples at 16 kHz, until it is interrupted.

    Args:
        device: name or number, as sounddevice knows it; None: the default.

    Raises:
        UserError: sounddevice or PortAudio is not installed, or there is no microphone.
    """
    try:
        import sounddevice
    except (ImportError, OSError) as error:
        raise UserError(
            f"the microphone cannot be used: {error}",
            remedy="pip install sounddevice, and PortAudio (apt install libportaudio2)",
        ) from None
    blocks: queue.Queue[NDArray[np.float32]] = queue.Queue()
    size = round(BLOCK * SAMPLE_RATE)
    chosen: Any = int(device) if device and device.isdigit() else device
    try:
        with sounddevice.InputStream(
            samplerate=SAMPLE_RATE,
            channels=1,
            dtype="float32",
            blocksize=size,
            device=chosen,
            callback=lambda data, *_: blocks.put(data[:, 0].copy()),
        ):
            while True:
                yield blocks.get()
    except (sounddevice.PortAudioError, ValueError) as error:
        raise UserError(
            f"the microphone cannot be used: {error}",
            remedy="connect one, or name another: python -m sounddevice lists them",
        ) from None


def pipe(stream: IO[bytes], pcm_rate: int | None = None) -> Iterator[NDArray[np.float32]]:
    """Samples at 16 kHz of a pipe, as they arrive.

    WAV with PCM or floating-point numbers is read here, other formats by ffmpeg.

    Args:
        stream: unbuffered or `sys.stdin.buffer`.
        pcm_rate: Hz of 16-bit little-endian mono samples without a header; None: there is a header.

    Raises:
        UserError: an unknown format without ffmpeg, or a broken header.
    """
    read = getattr(stream, "read1", stream.read)
    if pcm_rate is not None:
        yield from _samples(read, b"", "<i2", 1, pcm_rate)
        return
    head = stream.read(12)
    if len(head) == 12 and head[:4] in (b"RIFF", b"RF64") and head[8:] == b"WAVE":
        kind, channels, rate = _wav_header(stream)
        yield from _samples(read, b"", kind, channels, rate)
        return
    yield from _piped_through_ffmpeg(read, head)


def _wav_header(stream: IO[bytes]) -> tuple[str, int, int]:
    """Kind of numbers, channels and Hz; the samples follow."""
    kind, channels, rate = "", 0, 0
    while True:
        head = stream.read(8)
        if len(head) < 8:
            raise UserError("standard input ends within a WAV header", remedy="send whole audio")
        name, size = head[:4], struct.unpack("<I", head[4:])[0]
        if name == b"data":
            break
        body = stream.read(size + size % 2)
        if name == b"fmt " and len(body) >= 16:
            code, channels, rate, _, _, bits = struct.unpack("<HHIIHH", body[:16])
            if code == _EXTENSIBLE and len(body) >= 26:
                code = struct.unpack("<H", body[24:26])[0]
            known = {(_PCM, 16): "<i2", (_PCM, 32): "<i4", (_FLOAT, 32): "<f4", (_FLOAT, 64): "<f8"}
            kind = known.get((code, bits), "")
    if not (kind and channels and rate):
        raise UserError(
            "standard input is WAV of a kind that is not read from a pipe",
            remedy="send 16-bit or floating-point samples, or another format with ffmpeg installed",
        )
    return kind, channels, rate


def _samples(
    read: Any, begun: bytes, kind: str, channels: int, rate: int
) -> Iterator[NDArray[np.float32]]:
    dtype = np.dtype(kind)
    scale = 1.0 if dtype.kind == "f" else 2.0 ** (1 - 8 * dtype.itemsize)
    frame = dtype.itemsize * channels
    size = max(1, round(BLOCK * rate)) * frame
    resample = OnlineResample(rate)
    held = begun
    while data := read(size):
        held += data
        whole = len(held) // frame * frame
        numbers = np.frombuffer(held[:whole], dtype=dtype).reshape(-1, channels)
        held = held[whole:]
        yield resample.accept((numbers.mean(axis=1) * scale).astype(np.float32))
    yield resample.finish()


def _piped_through_ffmpeg(read: Any, head: bytes) -> Iterator[NDArray[np.float32]]:
    from threading import Thread

    program = shutil.which("ffmpeg")
    if program is None:
        raise UserError(
            "standard input is not WAV, and there is no ffmpeg to read it",
            remedy="send WAV, or install ffmpeg",
        )
    command = [program, "-v", "error", "-i", "pipe:0", "-vn", "-f", "f32le", "-ac", "1"]
    command += ["-ar", str(SAMPLE_RATE), "-flush_packets", "1", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        into = process.stdin

        def feed() -> None:
            with suppress(OSError), into:
                into.write(head)
                while data := read(1 << 14):
                    into.write(data)
                    into.flush()

        Thread(target=feed, daemon=True).start()
        try:
            given = 0
            for block in _samples(process.stdout.read1, b"", "<f4", 1, SAMPLE_RATE):  # type: ignore[attr-defined]
                given += len(block)
                yield block
            process.wait()
        finally:
            process.kill()
    if process.returncode or not given:
        raise UserError("ffmpeg cannot read standard input", remedy="send whole audio")
