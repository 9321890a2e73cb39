#!/usr/bin/env python3
"""Check that a teacher is used rightly, and where in it the speech is, before hours of extraction.

    python local/check_teacher.py --teacher hf:facebook/hubert-large-ll60k --layers 6 12 18 24 \\
        --train-cuts data/x/fbank/librispeech_cuts_train-clean-5.jsonl.gz \\
        --test-cuts data/x/fbank/librispeech_cuts_dev-clean-2.jsonl.gz

A teacher that was fine-tuned with CTC transcribes the test cuts: a word error rate far from the
published one means wrong audio, wrong normalization, or another language. Of every teacher, a
linear layer is trained with CTC to find characters in the embeddings of each layer, and in
filterbanks: the lower the character error rate on the test cuts, the more of what was said is
there to distil.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mvqkd.data.alignment import require_ratio
from mvqkd.data.audio_cuts import AudioCuts
from mvqkd.data.features import extract
from mvqkd.errors import UserError
from mvqkd.evaluation.wer import Transcript, log_line, score
from mvqkd.experiment.program import run_program
from mvqkd.files import write_text
from mvqkd.geometry import SAMPLE_RATE
from mvqkd.teachers import load_teacher
from mvqkd.teachers.audio import embed
from mvqkd.teachers.probe import probe


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--teacher", required=True, help="torchaudio:NAME, hf:ID, ...: see mvqkd.teachers.load")
    add("--layers", type=int, nargs="+", help="1-based (default: four, evenly spaced)")
    add("--train-cuts", type=Path, nargs="+", required=True, help="manifests; with transcripts")
    add("--test-cuts", type=Path, nargs="+", required=True, help="of other speakers")
    add("--num-train", type=int, default=200, help="utterances for the probes (%(default)s)")
    add("--num-test", type=int, default=50, help="utterances to test on (%(default)s)")
    add("--steps", type=int, default=400, help="of training a probe (%(default)s)")
    add("--seed", type=int, default=0, help="of the choice of utterances and of the probes")
    add("--max-duration", type=float, default=100.0, help="seconds in a batch (%(default)s)")
    add("--output", type=Path, help="write the table there too")
    options = parser.parse_args()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    lowest = load_teacher(options.teacher, [0])
    # Refused here, and not when a training begins.
    require_ratio(lowest.frame_rate)
    num_layers = lowest.num_layers
    quarters = sorted({max(1, round(num_layers * part / 4)) for part in (1, 2, 3, 4)})
    layers = sorted(set(options.layers or quarters) | {num_layers})
    teacher = load_teacher(options.teacher, layers, device=device)
    lines = [f"`{options.teacher}`: {num_layers} layers, {teacher.dim} dimensions", ""]
    sets = {}
    for name, paths, count in (
        ("train", options.train_cuts, options.num_train),
        ("test", options.test_cuts, options.num_test),
    ):
        cuts = AudioCuts(paths)
        numbers = [number for number in cuts.sample(count, options.seed) if cuts.text(number)]
        if not numbers:
            raise UserError(f"{paths[0]} has no transcripts", remedy="give cuts with transcripts")
        seconds = cuts.num_samples[numbers].sum() / SAMPLE_RATE
        logging.info("%s: %d utterances, %.0f s", name, len(numbers), seconds)
        sets[name] = (cuts, numbers)

    found: dict[str, dict[int, list[tuple[Tensor, str]]]] = {}
    transcripts = []
    for name, (cuts, numbers) in sets.items():
        found[name] = {layer: [] for layer in layers}
        for number, embeddings in embed(
            teacher, cuts, numbers, device=device, max_duration=options.max_duration
        ):
            text = cuts.text(number)
            for layer, x in embeddings.items():
                found[name][layer].append((_kept(x, cuts.ids[number]), text))
            if name == "test" and teacher.ctc is not None:
                x = embeddings[num_layers][None]
                with torch.inference_mode():
                    hypothesis = teacher.ctc.decode(x, torch.tensor([x.shape[1]]))[0]
                transcripts.append(
                    Transcript(cuts.ids[number], text.upper().split(), hypothesis.upper().split())
                )
    if transcripts:
        lines += [log_line("test-ctc_greedy_search", score(transcripts).total), ""]

    lines += [
        f"Linear CTC probes trained on {len(sets['train'][1])} utterances, {options.steps} steps, "
        f"tested on {len(sets['test'][1])}.",
        "",
        "| features | dimensions | frames a second | CER % | nats a character |",
        "|---|---|---|---|---|",
    ]
    candidates: list[tuple[str, float, list, list]] = [
        ("fbank, two frames", 50.0, stacked(*sets["train"]), stacked(*sets["test"]))
    ]
    candidates += [
        (f"layer {layer}", teacher.frame_rate, found["train"][layer], found["test"][layer])
        for layer in layers
    ]
    for name, rate, train, test in candidates:
        result = probe(train, test, steps=options.steps, seed=options.seed, device=device)
        dim = train[0][0].shape[1]
        lines.append(
            f"| {name} | {dim} | {rate:g} | {result.characters.wer:.1f} | {result.loss:.2f} |"
        )
        logging.info("%s: CER %.1f %%", name, result.characters.wer)
        if result.too_short:
            logging.warning(
                "%s: %d of the %d utterances have more characters than frames: the nats are of the "
                "others",
                name,
                result.too_short,
                len(test),
            )
    print("\n".join(lines))
    if options.output:
        write_text(options.output, "\n".join(lines) + "\n")


def _kept(x: Tensor, utterance: str) -> Tensor:
    """Embeddings on the CPU, in two bytes a number where they fit."""
    if not x.isfinite().all():
        raise UserError(
            f"utterance {utterance}: the teacher's embeddings have NaN or infinity",
            remedy="check its audio, and the teacher's weights",
        )
    half = x.half()
    return (half if half.isfinite().all() else x).cpu()


def stacked(cuts: AudioCuts, numbers: Sequence[int]) -> list[tuple[Tensor, str]]:
    """Filterbank features, two frames of 10 ms side by side."""
    pairs = []
    for number in numbers:
        features = torch.from_numpy(extract(cuts.samples(number)))
        even = features[: len(features) // 2 * 2]
        pairs.append((even.reshape(-1, 2 * features.shape[1]), cuts.text(number)))
    return pairs


if __name__ == "__main__":
    run_program(main)
