"""Decodes as a JSON text on standard input says, and prints what it found as JSON.

A program of its own: sherpa-onnx brings its own onnxruntime, and ends the process when it does not
like a file.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import sherpa_onnx

RATE = 16000


def main() -> None:
    job = json.load(sys.stdin)
    kind = getattr(sherpa_onnx, job["recognizer"])  # OfflineRecognizer or OnlineRecognizer
    recognizer = getattr(kind, job["constructor"])(**job["options"])
    waves = [np.load(path) for path in job["waves"]]
    groups = [waves] if job["together"] else [[wave] for wave in waves]
    decode = _offline if job["recognizer"] == "OfflineRecognizer" else _online
    print(json.dumps([found for group in groups for found in decode(recognizer, group, job)]))


def _offline(recognizer: Any, waves: list[np.ndarray], job: dict[str, Any]) -> list[Any]:
    streams = []
    for wave in waves:
        streams.append(recognizer.create_stream(**_hotwords(job)))
        streams[-1].accept_waveform(RATE, wave)
    recognizer.decode_streams(streams)
    return [
        {"tokens": s.result.tokens, "times": s.result.timestamps, "text": s.result.text}
        for s in streams
    ]


def _online(recognizer: Any, waves: list[np.ndarray], job: dict[str, Any]) -> list[Any]:
    streams = []
    for wave in waves:
        stream = recognizer.create_stream(**_hotwords(job))
        stream.accept_waveform(RATE, wave)
        stream.accept_waveform(RATE, np.zeros(job["tail"], dtype=np.float32))
        stream.input_finished()
        streams.append(stream)
    endpoints = [0] * len(streams)
    while ready := [stream for stream in streams if recognizer.is_ready(stream)]:
        recognizer.decode_streams(ready)
        for n, stream in enumerate(streams):
            endpoints[n] += recognizer.is_endpoint(stream)
    return [
        {
            "tokens": recognizer.tokens(stream),
            "times": recognizer.timestamps(stream),
            "text": recognizer.get_result(stream),
            "endpoints": count,
        }
        for stream, count in zip(streams, endpoints, strict=True)
    ]


def _hotwords(job: dict[str, Any]) -> dict[str, str]:
    return {"hotwords": job["hotwords"]} if job.get("hotwords") else {}


if __name__ == "__main__":
    main()
