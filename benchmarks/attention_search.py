#!/usr/bin/env python3
"""Beam search of an attention decoder beside `generate` of transformers.

    python benchmarks/attention_search.py [--threads 1] [--utterances 8] [--frames 200] \\
        [--tokens 40] [--beams 1 4 8] [--markdown table.md]

Results: both search over the same decoder, a random BART of `--small` size, which ours calls
through an adapter without caches. Tokens and log-probabilities of all hypotheses are compared.

Speed: both search over random decoders of the same sizes (6 layers of 256, 4 heads, V 500) until
each hypothesis has `--tokens` tokens: ours over `TransformerDecoder`, generate over BART's. Both
keep caches. Medians of --repeats, wall and CPU (all threads), which says more on a busy machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import BartConfig, BartForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from mvqkd.decoding import attention_beam_search
from mvqkd.evaluation.report import markdown_table
from mvqkd.geometry import BLANK, SOS_EOS, UNK
from mvqkd.models import TransformerDecoder
from mvqkd.storage.files import write_text


class BartMemory(NamedTuple):
    frames: Tensor
    valid: Tensor


class BartDecoder:
    """BART's decoder as an `AttentionDecoder`, all tokens anew at each step."""

    sos_eos = SOS_EOS

    def __init__(self, model: BartForConditionalGeneration) -> None:
        self.model = model
        self.encoder_dim = model.config.d_model
        self.vocab_size = model.config.vocab_size

    def memory(self, encoder_out: Tensor, lens: Tensor) -> BartMemory:
        frames = torch.arange(encoder_out.size(1), device=lens.device)
        return BartMemory(encoder_out, (frames < lens[:, None]).long())

    def start(self, memory: BartMemory, beam_size: int) -> tuple[Tensor]:
        return (torch.zeros(len(memory.frames) * beam_size, 0, dtype=torch.int64),)

    def step(
        self, memory: BartMemory, state: tuple[Tensor], tokens: Tensor
    ) -> tuple[Tensor, tuple[Tensor]]:
        beam = len(tokens) // len(memory.frames)
        prefix = torch.cat([state[0], tokens[:, None]], dim=1)
        out = self.model(
            encoder_outputs=BaseModelOutput(memory.frames.repeat_interleave(beam, dim=0)),
            attention_mask=memory.valid.repeat_interleave(beam, dim=0),
            decoder_input_ids=prefix,
            use_cache=False,
        )
        return out.logits[:, -1], (prefix,)


def make_bart(*, layers: int, dim: int, vocab: int, longest: int, sharpness: float) -> Any:
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=vocab, d_model=dim, decoder_layers=layers, encoder_layers=1,
        decoder_attention_heads=4, encoder_attention_heads=4, decoder_ffn_dim=4 * dim,
        encoder_ffn_dim=dim, max_position_embeddings=longest + 8, pad_token_id=BLANK,
        bos_token_id=SOS_EOS, eos_token_id=SOS_EOS, decoder_start_token_id=SOS_EOS,
        forced_eos_token_id=None, init_std=sharpness,
    )  # fmt: skip
    return BartForConditionalGeneration(config).eval()


@torch.inference_mode()
def generate(model: Any, frames: Tensor, lens: Tensor, *, beam: int, **options: Any) -> Any:
    valid = (torch.arange(frames.size(1)) < lens[:, None]).long()
    return model.generate(
        encoder_outputs=BaseModelOutput(frames),
        attention_mask=valid,
        num_beams=beam,
        num_return_sequences=beam,
        do_sample=False,
        early_stopping=False,
        suppress_tokens=[BLANK, UNK],
        output_scores=True,
        return_dict_in_generate=True,
        **options,
    )


def compare(beam: int) -> tuple[int, int, float]:
    """Hypotheses that are the same, all, and the largest difference of their scores."""
    model = make_bart(layers=2, dim=64, vocab=30, longest=300, sharpness=0.3).double()
    model.final_logits_bias[0, SOS_EOS] += 3.0
    torch.manual_seed(1)
    lens = torch.tensor([50, 44, 38, 31, 50, 27])
    frames = 3 * torch.randn(len(lens), 50, 64, dtype=torch.float64)
    found = attention_beam_search(
        BartDecoder(model), frames, lens, beam_size=beam, nbest=beam, max_tokens_per_frame=10.0
    )
    theirs = generate(model, frames, lens, beam=beam, length_penalty=1.0, max_new_tokens=270)
    sequences, scores = theirs.sequences, theirs.sequences_scores
    same, total, difference = 0, 0, 0.0
    for n, hypotheses in enumerate(found):
        for rank, hypothesis in enumerate(hypotheses):
            row = sequences[n * beam + rank, 1:].tolist()
            end = row.index(SOS_EOS) if SOS_EOS in row else len(row)
            total += 1
            same += row[:end] == hypothesis.tokens
            normalized = hypothesis.score / (len(hypothesis.tokens) + 1)
            difference = max(difference, abs(normalized - float(scores[n * beam + rank])))
    return same, total, difference


def measure(run: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Medians of seconds: wall, CPU."""
    run()
    times = []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    walls, cpus = zip(*times, strict=True)
    return statistics.median(walls), statistics.median(cpus)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--utterances", type=int, default=8, help="in a batch")
    parser.add_argument("--frames", type=int, default=200, help="encoder frames of an utterance")
    parser.add_argument("--tokens", type=int, default=40, help="of each hypothesis")
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--repeats", type=int, default=3, help="medians are of this many")
    parser.add_argument("--markdown", type=Path, help="file for the table")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for beam in (2, 4, 8):
        same, total, difference = compare(beam)
        print(f"beam {beam}: {same} of {total} hypotheses the same, scores within {difference:.1e}")

    bart = make_bart(layers=6, dim=256, vocab=500, longest=options.tokens, sharpness=0.05)
    torch.manual_seed(0)
    ours = TransformerDecoder(
        encoder_dim=256, vocab_size=500, dim=256, num_layers=6, num_heads=4, feedforward_dim=1024
    ).eval()
    with torch.no_grad():
        ours.output.bias[SOS_EOS] = -1e4
    bart.final_logits_bias[0, SOS_EOS] = -1e4
    frames = torch.randn(options.utterances, options.frames, 256)
    lens = torch.full((options.utterances,), options.frames)
    rows = []
    for beam in options.beams:
        own = measure(
            lambda beam=beam: attention_beam_search(
                ours, frames, lens, beam_size=beam,
                max_tokens_per_frame=(options.tokens - 1) / options.frames,
            ),
            options.repeats,
        )  # fmt: skip
        theirs = measure(
            lambda beam=beam: generate(
                bart, frames, lens, beam=beam, max_new_tokens=options.tokens
            ),
            options.repeats,
        )
        numbers = [f"{1000 * x:.0f}" for x in (*own, *theirs)]
        rows.append([str(beam), *numbers, f"{own[1] / theirs[1]:.2f}"])
    header = ["beam", "ours, wall ms", "CPU ms", "generate, wall ms", "CPU ms", "ratio of CPU"]
    table = markdown_table(header, rows)
    print(table)
    if options.markdown:
        write_text(options.markdown, table + "\n")


if __name__ == "__main__":
    main()
