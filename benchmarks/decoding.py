#!/usr/bin/env python3
"""Real-time factors of decoding: search, batch size, offline / simulated / chunked.

    python benchmarks/decoding.py [--exp-dir exp/mini_librispeech/streaming --epoch 6] \\
        [--threads 2] [--seconds 10] [--utterances 16] [--markdown table.md]

Without an experiment: a random student of the default size (12 layers of 256, V 500), whose blank
is made as frequent as it is in speech (about five frames of six), over random features; time
depends on shapes and on the number of tokens found, not on values.

Two times for each row, medians of --repeats: wall, and CPU (all threads), which says more on a busy
machine; both as seconds for a second of audio.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mvqkd.checkpoints.load import load_model
from mvqkd.decoding import (
    CTCGreedySearch,
    GreedySearch,
    ModifiedBeamSearch,
    decode_chunked,
    decode_whole,
)
from mvqkd.evaluation.report import markdown_table
from mvqkd.models import AsrModel
from mvqkd.recipe.build import build_student
from mvqkd.recipe.config.schema import ExperimentConfig, LossConfig, ModelConfig
from mvqkd.storage.files import write_text

CHUNK, LEFT = 16, 64


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--exp-dir", type=Path, help="experiment of a causal student")
    parser.add_argument("--epoch", type=int, default=1, help="of the experiment")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each utterance")
    parser.add_argument("--utterances", type=int, default=16, help="decoded in each measurement")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--repeats", type=int, default=3, help="medians are of this many")
    parser.add_argument("--markdown", type=Path, help="file for the table")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    generator = torch.Generator().manual_seed(0)
    shape = (options.utterances, int(100 * options.seconds), 80)
    features = torch.randn(shape, generator=generator) * 4 - 8
    if options.exp_dir is None:
        model = random_student(features[:1])
    else:
        model = load_model(options.exp_dir, options.epoch)

    whole = partial(decode_whole, model.encoder)
    streams: dict[str, Any] = {"chunk_size": CHUNK, "left_context": LEFT}
    encoders: dict[str, Callable[..., Any]] = {
        "full context": whole,
        "simulated": partial(whole, **streams),
        "chunked": partial(decode_chunked, model.encoder, **streams),
    }
    searches: dict[str, Any] = {
        "greedy": GreedySearch(model.transducer),
        "beam 4": ModifiedBeamSearch(model.transducer, beam_size=4),
    }
    if model.ctc is not None:
        searches["CTC greedy"] = CTCGreedySearch(model.ctc)
    rows = []
    for size in options.batch_sizes:
        for encoder_name, decode in encoders.items():
            for search_name, search in searches.items():
                times = [
                    measure(decode, search, features, size) for _ in range(options.repeats + 1)
                ][1:]
                wall, cpu = (statistics.median(column) for column in zip(*times, strict=True))
                audio = options.utterances * options.seconds
                rows.append(
                    [
                        str(size),
                        encoder_name,
                        search_name,
                        f"{wall / audio:.4f}",
                        f"{cpu / audio:.4f}",
                    ]
                )
                print(" | ".join(rows[-1]), flush=True)
    table = markdown_table(["batch", "encoder", "search", "wall RTF", "CPU RTF"], rows)
    print(f"\n{table}")
    if options.markdown:
        write_text(options.markdown, table)


def random_student(features: Tensor) -> AsrModel:
    """A random causal student that emits a token at about one frame of six."""
    torch.manual_seed(0)
    config = ExperimentConfig(model=ModelConfig(causal=True), loss=LossConfig(ctc_scale=0.3))
    model = build_student(config, 500).eval()
    with torch.inference_mode():
        encoder_out, _ = model.encoder(features, torch.tensor([features.size(1)]))
        context = torch.tensor([[-1, 0]])
        assert model.transducer is not None
        predictor, joiner = model.transducer.predictor, model.transducer.joiner
        predicted = joiner.project_predictor(predictor.step(context))
        logits = joiner(joiner.project_encoder(encoder_out[0]), predicted)
        margin = logits[:, 1:].amax(1) - logits[:, 0]
        joiner.output.bias[0] += margin.quantile(5 / 6)
    return model


def measure(
    decode: Callable[..., Any], search: Any, features: Tensor, batch_size: int
) -> tuple[float, float]:
    """Wall and CPU seconds for all utterances, `batch_size` at a time."""
    wall, cpu = time.perf_counter(), time.process_time()
    for batch in features.split(batch_size):
        decode(search, batch, torch.full((len(batch),), batch.size(1)))
    return time.perf_counter() - wall, time.process_time() - cpu


if __name__ == "__main__":
    main()
