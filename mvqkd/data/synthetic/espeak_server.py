"""The process that holds espeak-ng: `python -I -S espeak_server.py <library> <data>`.

Run by `mvqkd.data.synthetic.espeak`; it imports nothing but the standard library, so that a fork
takes a millisecond. Each line of standard input is a JSON object `{"seed": ..., "lines": [[text,
voice, rate, pitch, range], ...]}`; the answer is a JSON line `{"rate": ..., "sizes": [...]}` and
the bytes (int16) of each spoken line, or a JSON line `{"error": ...}`. It ends with its input.

espeak-ng keeps filter states, the pitch period and random numbers from one utterance to the next,
so the same text sounds different each time, even after it is initialized anew. Therefore each
request is answered by a forked child of a process in which espeak-ng never spoke.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from typing import Any

# From espeak-ng's speak_lib.h.
SYNCHRONOUS, DONT_EXIT, UTF8, BY_CHARACTER = 2, 0x8000, 1, 1
RATE, VOLUME, PITCH, RANGE = 1, 2, 3, 4
# At its default of 100 the louder variants clip.
QUIET = 55

CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)


def main(library_path: str, data: str) -> None:
    library = ctypes.CDLL(library_path)
    library.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
    sample_rate = library.espeak_Initialize(SYNCHRONOUS, 0, os.fsencode(data), DONT_EXIT)
    if sample_rate <= 0:
        answer({"error": f"espeak-ng cannot read its data in {data}"})
        return
    for request in sys.stdin.buffer:
        child = os.fork()
        if child == 0:
            # Whatever happens, nothing of the parent's is run twice.
            try:
                speak(library, sample_rate, json.loads(request))
            finally:
                os._exit(0)
        status = os.waitpid(child, 0)[1]
        if status != 0:  # by a signal, before it answered
            answer({"error": f"espeak-ng died with wait status {status}"})


def speak(library: Any, sample_rate: int, request: dict[str, Any]) -> None:
    """Answer one request."""
    chunks: list[bytes] = []

    @CALLBACK
    def receive(samples: int | None, count: int, _: object) -> int:
        if samples and count > 0:
            chunks.append(ctypes.string_at(samples, 2 * count))
        return 0

    library.espeak_SetSynthCallback(receive)
    library.espeak_ng_SetRandSeed(request["seed"])
    ctypes.CDLL(None).srand(request["seed"])  # some noises come from the C library's generator
    spoken: list[bytes] = []
    for text, voice, rate, pitch, pitch_range in request["lines"]:
        if library.espeak_SetVoiceByName(voice.encode()) != 0:
            answer({"error": f"espeak-ng has no voice {voice}"})
            return
        for name, value in ((RATE, rate), (PITCH, pitch), (RANGE, pitch_range), (VOLUME, QUIET)):
            library.espeak_SetParameter(name, value, 0)
        chunks.clear()
        size = ctypes.c_size_t(len(text.encode()) + 1)
        library.espeak_Synth(text.encode(), size, 0, BY_CHARACTER, 0, UTF8, None, None)
        library.espeak_Synchronize()
        spoken.append(b"".join(chunks))
    answer({"rate": sample_rate, "sizes": [len(samples) for samples in spoken]}, *spoken)


def answer(header: dict[str, Any], *parts: bytes) -> None:
    sys.stdout.buffer.write(json.dumps(header).encode() + b"\n" + b"".join(parts))
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
