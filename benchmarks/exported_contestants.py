"""What `exported_models.py` compares: torch, onnxruntime and sherpa-onnx with one model folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import sherpa_onnx
import torch
from numpy.typing import NDArray

from mvqkd import load_model
from mvqkd.checkpoints.model_folder import SAFETENSORS
from mvqkd.decoding import StreamingRecognizer, build_search, decode_whole
from mvqkd.features.fbank import extract
from mvqkd.geometry import SAMPLE_RATE, SHIFT_SAMPLES, SUBSAMPLING
from mvqkd.onnx_recognizer import OnnxRecognizer
from mvqkd.storage.files import read_json

Decode = Callable[[NDArray[np.float32]], tuple[list[int], list[float]]]
"""Samples (S,) -> tokens, and processor seconds of each chunk of a stream."""


@dataclass
class Contestant:
    """A runtime with files."""

    key: str
    """What is comparable: `streaming transducer`."""
    runtime: str
    precision: str
    chunk: int
    """Samples of a chunk; 0: the whole utterance."""
    parameters: int
    size: int
    """Bytes."""
    decode: Decode
    tokens: list[list[int]] = field(default_factory=list)
    """Of each utterance."""


def contestants(folder: Path, method: str) -> list[Contestant]:
    """All files of a model folder in all runtimes; torch with the weights in float32."""
    found = []
    (lang,) = folder.glob("data/lang_*")
    for item in read_json(folder / "export.json")["files"]:
        files = {name: folder / path for name, path in item["files"].items()}
        first = onnx.load(files.get("encoder", files.get("ctc")))
        metadata = {entry.key: entry.value for entry in first.metadata_props}
        chunk = int(metadata.get("decode_chunk_len", 0)) * SHIFT_SAMPLES
        search = method if item["head"] == "transducer" else "ctc_greedy_search"
        decoders: dict[str, Decode] = {
            "onnxruntime": _onnxruntime(folder, search, item["precision"], chunk),
            "sherpa-onnx": _sherpa_onnx(item, files, lang / "tokens.txt", method, chunk),
        }
        if item["precision"] == "float32":
            torch_decoder, parameters = _torch(folder, search, item["head"], chunk)
            decoders = {"torch": torch_decoder, **decoders}
        size = sum(path.stat().st_size for path in files.values())
        for runtime, decode in decoders.items():
            found.append(
                Contestant(
                    f"{'streaming' if item['streaming'] else 'offline'} {item['head']}",
                    runtime,
                    item["precision"],
                    chunk,
                    parameters,  # float32 is the first precision of each recognizer
                    (folder / "exp" / SAFETENSORS).stat().st_size if runtime == "torch" else size,
                    decode,
                )
            )
    return found


def _blocks(samples: NDArray[np.float32], chunk: int) -> Iterator[NDArray[np.float32]]:
    for begin in range(0, len(samples), chunk):
        yield samples[begin : begin + chunk]


class _Stopwatch:
    """Processor time of blocks of samples with which a chunk has been decoded."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def start(self) -> None:
        self._begin = time.process_time()

    def stop(self, has_decoded: bool) -> None:
        if has_decoded:
            self.seconds.append(time.process_time() - self._begin)


def _torch(folder: Path, method: str, head: str, chunk: int) -> tuple[Decode, int]:
    model = load_model(folder)
    search: Any = build_search(model, method)
    used = [model.encoder, model.transducer if head == "transducer" else model.ctc]
    parameters = sum(each.numel() for module in used if module for each in module.parameters())
    if not chunk:

        def whole(samples: NDArray[np.float32]) -> tuple[list[int], list[float]]:
            x = torch.from_numpy(extract(samples))[None]
            found = decode_whole(model.encoder, search, x, torch.tensor([x.size(1)]))
            return found[0][0].tokens, []

        return whole, parameters
    recognizer: StreamingRecognizer[Any] = StreamingRecognizer(
        model.conformer,
        search,
        chunk_size=chunk // SHIFT_SAMPLES // SUBSAMPLING,
        left_context=model.description["model"]["left_context"],
    )
    return _in_sessions(recognizer, chunk), parameters


def _in_sessions(recognizer: StreamingRecognizer[Any], chunk: int) -> Decode:
    def stream(samples: NDArray[np.float32]) -> tuple[list[int], list[float]]:
        session, watch, found = recognizer.open(), _Stopwatch(), []
        for block in _blocks(samples, chunk):
            watch.start()
            session.accept_waveform(torch.from_numpy(block))
            is_ready = recognizer.is_ready(session)
            recognizer.decode([session])
            found = recognizer.hypotheses(session)[0].tokens
            watch.stop(is_ready)
        return found, watch.seconds

    return stream


def _onnxruntime(folder: Path, method: str, precision: str, chunk: int) -> Decode:
    recognizer = OnnxRecognizer.load(
        folder, method=method, precision=precision, streaming=bool(chunk)
    )
    if chunk:
        return _in_sessions(recognizer.sessions(), chunk)
    return lambda samples: (recognizer.recognize([samples])[0].tokens, [])


def _sherpa_onnx(
    item: Mapping[str, Any], files: Mapping[str, Path], tokens: Path, method: str, chunk: int
) -> Decode:
    kind, constructor = item["recognizer"].split(".")[1:]
    names = {("model" if name == "ctc" else name): str(path) for name, path in files.items()}
    recognizer = getattr(getattr(sherpa_onnx, kind), constructor)(
        tokens=str(tokens), num_threads=1, decoding_method=method, **names
    )
    lines = tokens.read_text(encoding="utf-8").splitlines()
    ids = {
        line.rsplit(maxsplit=1)[0].replace("▁", " "): number for number, line in enumerate(lines)
    }

    def whole(samples: NDArray[np.float32]) -> tuple[list[int], list[float]]:
        stream = recognizer.create_stream()
        stream.accept_waveform(SAMPLE_RATE, samples)
        recognizer.decode_stream(stream)
        return [ids[token] for token in stream.result.tokens], []

    def in_chunks(samples: NDArray[np.float32]) -> tuple[list[int], list[float]]:
        stream, watch, found = recognizer.create_stream(), _Stopwatch(), []
        for block in _blocks(samples, chunk):
            watch.start()
            stream.accept_waveform(SAMPLE_RATE, block)
            is_ready = recognizer.is_ready(stream)
            while recognizer.is_ready(stream):
                recognizer.decode_stream(stream)
            found = recognizer.tokens(stream)
            watch.stop(is_ready)
        return [ids[token] for token in found], watch.seconds

    return in_chunks if chunk else whole
