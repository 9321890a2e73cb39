"""Word errors of sherpa-onnx, unmodified, with exported files on a split.

    python benchmarks/sherpa_onnx_wer.py --model exp/mini/streaming_mvq/export \\
        --cuts data/mini/fbank/mini_cuts_test-mini.jsonl.gz --method greedy_search

The weights of the folder decode the same samples in torch: it tells in how many utterances the
tokens differ. local/decode.py may count a few other errors: it reads stored features, which are
rounded, and appends no silence.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import sherpa_onnx
import torch
from lhotse.serialization import deserialize_item

from mvqkd import load_model
from mvqkd.data.loading.index import transcript
from mvqkd.data.loading.tokenizer import Tokenizer
from mvqkd.decoding import build_search, decode_whole
from mvqkd.evaluation.wer import Transcript, log_line, score
from mvqkd.features.fbank import extract
from mvqkd.features.reading import read_audio
from mvqkd.geometry import SAMPLE_RATE, SUBSAMPLING, needed_features
from mvqkd.storage.files import read_json
from mvqkd.storage.jsonl import read_items


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", type=Path, required=True, help="model folder: <experiment>/export")
    add("--cuts", type=Path, required=True, help="manifest of the split")
    add("--method", default="greedy_search", help="greedy_search or modified_beam_search")
    add("--precision", default="float32", help="float32, float16 or int8")
    add("--recognizer", default="", help="part of the recognizer's name (default: the first)")
    add("--tail", type=float, default=1.0, help="seconds of silence appended to streams")
    options = parser.parse_args()
    (lang,) = options.model.glob("data/lang_*")
    tokenizer = Tokenizer.load(lang)
    item = next(
        item
        for item in read_json(options.model / "export.json")["files"]
        if item["precision"] == options.precision and options.recognizer in item["recognizer"]
    )
    kind, constructor = item["recognizer"].split(".")[1:]
    files = {name: str(options.model / path) for name, path in item["files"].items()}
    if "ctc" in files:
        files = {"model": files["ctc"]}
    recognizer = getattr(getattr(sherpa_onnx, kind), constructor)(
        tokens=str(lang / "tokens.txt"),
        num_threads=1,
        decoding_method=options.method,
        **files,
    )
    reference = Reference(options.model, options.method, item["head"], item["streaming"])
    theirs, ours, differ, seconds, decoding = [], [], [], 0.0, 0.0
    for cut in read_items(options.cuts):
        text = tokenizer.normalize(transcript(cut)).split()
        utterance, samples = cut["id"], read_audio(deserialize_item(cut))
        if item["streaming"]:
            samples = np.pad(samples, (0, round(options.tail * SAMPLE_RATE)))
        begin = time.perf_counter()
        found = decode(recognizer, samples, item["streaming"])
        decoding += time.perf_counter() - begin
        seconds += len(samples) / SAMPLE_RATE
        # By ids, since sherpa-onnx makes its own text of tokens.
        ids = [tokenizer.tokens.index(token.replace(" ", "▁")) for token in found]
        expected = reference(samples)
        differ += [utterance] if ids != expected else []
        theirs.append(Transcript(utterance, text, tokenizer.decode(ids).split()))
        ours.append(Transcript(utterance, text, tokenizer.decode(expected).split()))
    print(item["recognizer"], options.method, options.precision)
    print(log_line("sherpa-onnx", score(theirs).total), f"RTF {decoding / seconds:.4f}")
    print(log_line("torch", score(ours).total))
    print(f"tokens of {len(differ)} of {len(ours)} utterances differ {' '.join(differ[:5])}")


class Reference:
    """The folder's weights in torch, on the same samples."""

    def __init__(self, folder: Path, method: str, head: str, streaming: bool) -> None:
        self.model = load_model(folder)
        self.search: Any = build_search(
            self.model, method if head == "transducer" else "ctc_greedy_search"
        )
        sizes = self.model.description["model"]
        chunks = [size for size in sizes["chunk_size"] if size > 0]
        self.chunk_size = chunks[0] if chunks else None
        self.left_context = sizes["left_context"] if sizes["left_context"] >= 0 else None
        self.streaming = streaming

    def __call__(self, samples: np.ndarray) -> list[int]:
        """Tokens; of a stream, those of the chunks that sherpa-onnx decodes: it waits for one frame
        more than a chunk has."""
        x = torch.from_numpy(extract(samples))[None]
        if self.streaming and self.chunk_size is not None:
            window, shift = needed_features(self.chunk_size), SUBSAMPLING * self.chunk_size
            x = x[:, : max(0, (x.size(1) - 1 - window) // shift) * shift + window]
        found = decode_whole(
            self.model.encoder,
            self.search,
            x,
            torch.tensor([x.size(1)]),
            chunk_size=self.chunk_size,
            left_context=self.left_context,
        )
        return found[0][0].tokens


def decode(recognizer: Any, samples: np.ndarray, streaming: bool) -> list[str]:
    """Tokens of one utterance."""
    stream = recognizer.create_stream()
    stream.accept_waveform(SAMPLE_RATE, samples)
    if not streaming:
        recognizer.decode_stream(stream)
        return stream.result.tokens
    stream.input_finished()
    while recognizer.is_ready(stream):
        recognizer.decode_stream(stream)
    return recognizer.tokens(stream)


if __name__ == "__main__":
    main()
