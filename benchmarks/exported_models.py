"""Size, speed and word errors of exported models, in torch, onnxruntime and sherpa-onnx.

    python benchmarks/exported_models.py exp/mini/teacher/export exp/mini/streaming_mvq/export \\
        --cuts data/mini/fbank/mini_cuts_test-mini.jsonl.gz --utterances 20 --markdown table.md

Every row decodes the same samples on one thread, from waveform to tokens. Each utterance is decoded
by all rows of a model in turn, `--rounds` times after once to warm up; processor time, so that
other work on the machine counts little. A time is the median over the rounds; a ratio is the median
of the ratios within the rounds, to sherpa-onnx with the same files, or to those of float32.
Latency is the processor time from the arrival of a chunk's last sample to its tokens. Streams are
followed by `--tail` seconds of silence, since sherpa-onnx decodes whole chunks alone.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from exported_contestants import Contestant, contestants
from lhotse.serialization import deserialize_item
from numpy.typing import NDArray
from tqdm import tqdm

from mvqkd.data.loading.index import transcript
from mvqkd.data.loading.tokenizer import Tokenizer
from mvqkd.evaluation.report import markdown_table
from mvqkd.evaluation.wer import Transcript, score
from mvqkd.features.reading import read_audio
from mvqkd.geometry import SAMPLE_RATE
from mvqkd.storage.files import write_text
from mvqkd.storage.jsonl import read_items

HEADER = [
    "model",
    "runtime",
    "precision",
    "M parameters",
    "MB",
    "/ float32",
    "RTF",
    "/ sherpa-onnx",
    "ms a chunk, median",
    "95 %",
    "WER, %",
]


@dataclass
class Measured:
    """Of a contestant."""

    rounds: list[float] = field(default_factory=list)
    """Processor seconds of all utterances in each round."""
    chunks: list[float] = field(default_factory=list)
    """Processor seconds of each chunk."""
    found: list[Transcript] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("models", type=Path, nargs="+", help="model folders: <experiment>/export")
    add("--cuts", type=Path, required=True, help="manifest of the split")
    add("--utterances", type=int, default=None, help="of the split, from the first")
    add("--rounds", type=int, default=3, help="times are medians of this many")
    add("--method", default="greedy_search", help="greedy_search or modified_beam_search")
    add("--tail", type=float, default=1.0, help="seconds of silence behind streams")
    add("--markdown", type=Path, help="file for the table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cuts = list(islice(read_items(options.cuts), options.utterances))
    names, references = [cut["id"] for cut in cuts], [transcript(cut) for cut in cuts]
    waves = [read_audio(deserialize_item(cut)) for cut in cuts]  # which takes the cuts apart
    rows: list[list[str]] = []
    for folder in options.models:
        (lang,) = folder.glob("data/lang_*")
        tokenizer = Tokenizer.load(lang)
        texts = [tokenizer.normalize(text).split() for text in references]
        entrants = contestants(folder, options.method)
        results = [Measured() for _ in entrants]
        for number in range(options.rounds + 1):
            one_round(entrants, results, waves, options.tail, is_first=number == 0)
            if number == 0:
                for entrant, result in zip(entrants, results, strict=True):
                    result.found = [
                        Transcript(name, text, tokenizer.decode(entrant.tokens[i]).split())
                        for i, (name, text) in enumerate(zip(names, texts, strict=True))
                    ]
        rows += table(folder, entrants, results, sum(map(len, waves)) / SAMPLE_RATE)
    text = markdown_table(HEADER, rows)
    print(text)
    if options.markdown:
        write_text(options.markdown, text + "\n")


def one_round(
    entrants: Sequence[Contestant],
    results: Sequence[Measured],
    waves: Sequence[NDArray[np.float32]],
    tail: float,
    *,
    is_first: bool,
) -> None:
    """All utterances by all contestants; the first round only keeps tokens."""
    spent = [0.0] * len(entrants)
    silence = np.zeros(round(tail * SAMPLE_RATE), np.float32)
    for wave in tqdm(waves, leave=False):
        for number, (entrant, result) in enumerate(zip(entrants, results, strict=True)):
            samples = np.concatenate([wave, silence]) if entrant.chunk else wave
            begin = time.process_time()
            tokens, chunks = entrant.decode(samples)
            spent[number] += time.process_time() - begin
            if is_first:
                entrant.tokens.append(tokens)
            else:
                result.chunks += chunks
    if not is_first:
        for result, seconds in zip(results, spent, strict=True):
            result.rounds.append(seconds)


def table(
    folder: Path, entrants: Sequence[Contestant], results: Sequence[Measured], seconds: float
) -> list[list[str]]:
    """A row for each contestant."""
    by_key = {
        (entrant.key, entrant.precision, entrant.runtime): (entrant, result)
        for entrant, result in zip(entrants, results, strict=True)
    }
    rows = []
    for entrant, result in zip(entrants, results, strict=True):
        whole, _ = by_key[entrant.key, "float32", entrant.runtime]
        _, peer = by_key[entrant.key, entrant.precision, "sherpa-onnx"]
        ratios = [a / b for a, b in zip(result.rounds, peer.rounds, strict=True)]
        chunks: list[Any] = ["", ""]
        if result.chunks:
            milliseconds = np.array(result.chunks) * 1000
            chunks = [f"{np.quantile(milliseconds, share):.2f}" for share in (0.5, 0.95)]
        rows.append(
            [
                f"{folder.parent.name}, {entrant.key}",
                entrant.runtime,
                entrant.precision,
                f"{entrant.parameters / 1e6:.2f}",
                f"{entrant.size / 1e6:.2f}",
                f"{entrant.size / whole.size:.3f}",
                f"{statistics.median(result.rounds) / seconds:.4f}",
                f"{statistics.median(ratios):.2f}",
                *chunks,
                f"{score(result.found).total.wer:.2f}",
            ]
        )
    return rows


if __name__ == "__main__":
    main()
