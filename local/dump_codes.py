#!/usr/bin/env python3
"""Dump codebook indexes of a teacher's embeddings for all training cuts.

    python local/dump_codes.py --cuts data/x/fbank/librispeech_cuts_train-clean-100.jsonl.gz \\
        --quantizer data/x/quantizer.pt --output data/x/codes
    torchrun --nproc-per-node 4 local/dump_codes.py ...

Speed-perturbed copies get codes of their own, from their own audio. Writes
<output>/codes-<part>-<k>-of-<n>.h5 and verifies them all at the end. Killed, the same command goes
on with the shards that are missing. A quantizer of multi_quantization chooses codes as that package
does, so that they go with published ones. With --rate-weight, codes are chosen that the utterance's
features make likely, according to the probe that local/train_quantizer.py left beside the
quantizer.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import numpy as np
import torch

from mvqkd.data.audio_cuts import AudioCuts
from mvqkd.data.codes import CodesInfo, CodeStore, write_codes
from mvqkd.data.feature_reader import FeatureReader
from mvqkd.errors import UserError
from mvqkd.experiment.program import at_least, run_program
from mvqkd.geometry import SAMPLE_RATE
from mvqkd.quantization import Quantizer
from mvqkd.quantization.predictable import encode_predictably
from mvqkd.quantization.probe import CodeProbe
from mvqkd.teachers import load_teacher
from mvqkd.teachers.audio import embed
from mvqkd.teachers.shards import Tick, divide_parts, prepare_folder, process_shards, worker


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--cuts", type=Path, nargs="+", required=True, help="manifests of all training cuts")
    add("--quantizer", type=Path, required=True, help="quantizer.pt of local/train_quantizer.py")
    add("--output", type=Path, required=True, help="folder of the codes")
    add("--teacher", help="URI (default: the one that the quantizer was trained on)")
    add(
        "--rate-weight",
        type=float,
        default=0.0,
        help="cost of a nat of codes as a part of the embeddings' energy; 0: nearest codes",
    )
    add("--precision", choices=["float32", "bfloat16", "float16"], default="float32")
    add("--max-duration", type=float, default=100.0, help="seconds in a batch (%(default)s)")
    add("--shard-hours", type=float, default=5.0, help="hours of audio in a file (%(default)s)")
    add("--num-workers", type=at_least(0), default=2, help="processes reading audio (%(default)s)")
    options = parser.parse_args()

    rank, _, device = worker()
    quantizer = Quantizer.load(options.quantizer, device=device)
    try:
        uri, layer, rate = (quantizer.metadata[key] for key in ("teacher", "layer", "frame_rate"))
    except KeyError as error:
        raise UserError(
            f"{options.quantizer} does not say which teacher and layer it is of",
            remedy=f"local/train_quantizer.py --import {options.quantizer} --embeddings FOLDER "
            "--output OTHER: measures it on embeddings of its teacher, and notes which",
        ) from error
    if options.teacher not in (None, uri):
        raise UserError(
            f"{options.quantizer} is a quantizer of {uri}, not of {options.teacher}",
            remedy="train one of this teacher; or, if both names are of the same weights, measure "
            f"it on this one's embeddings: local/train_quantizer.py --import {options.quantizer}",
        )
    encode = Encoder(quantizer, options)
    cuts = AudioCuts(options.cuts)
    seconds = cuts.num_samples / SAMPLE_RATE
    teacher = load_teacher(uri, [layer], device=device)
    if (teacher.dim, teacher.frame_rate) != (quantizer.dim, rate):
        raise UserError(
            f"{uri} has {teacher.dim} dimensions at {teacher.frame_rate} Hz, {options.quantizer} "
            f"{quantizer.dim} at {rate} Hz",
            remedy="the teacher has changed: extract its embeddings and train the quantizer again",
        )
    frames = teacher.output_lens(torch.from_numpy(cuts.num_samples)).numpy()
    info = CodesInfo(
        teacher=uri,
        layer=layer,
        frame_rate=teacher.frame_rate,
        quantizer_id=quantizer.id,
        num_codebooks=quantizer.num_codebooks,
        codebook_size=quantizer.codebook_size,
        rate_weight=options.rate_weight,
        encoder="mvqkd" if options.rate_weight else quantizer.encoder,
    )
    shards, names = divide_parts(cuts.parts, seconds, options.shard_hours)
    paths = prepare_folder(options.output, [f"codes-{name}" for name in names])
    if rank == 0:
        logging.info(
            "%d utterances, %.2f h: %.1f MB of codes of layer %d of %s in %s",
            len(cuts),
            seconds.sum() / 3600,
            frames.sum() * quantizer.num_codebooks / 1e6,
            layer,
            uri,
            options.output,
        )

    def wanted(shard: int) -> dict[str, int]:
        return {cuts.ids[number]: int(frames[number]) for number in shards[shard]}

    def check(shard: int) -> None:
        store = CodeStore(paths[shard])
        if store.info != info:
            raise UserError(
                f"{store.path} is of another run: {store.info}, not {info}",
                remedy=f"remove {options.output}, or give another --output",
            )
        store.verify(wanted(shard), quantizer_id=quantizer.id)

    def make(shard: int, tick: Tick) -> None:
        count = int(frames[shards[shard]].sum())
        with write_codes(paths[shard], info=info, total_frames=count) as writer:
            for number, layers in embed(
                teacher,
                cuts,
                shards[shard],
                device=device,
                max_duration=options.max_duration,
                num_workers=options.num_workers,
                precision=options.precision,
            ):
                writer.write(cuts.ids[number], encode(layers[layer], cuts.ids[number]))
                tick(number)

    process_shards(shards, seconds, files=lambda shard: [paths[shard]], check=check, make=make)
    if rank == 0:
        store = CodeStore(options.output)
        expected = {name: int(count) for name, count in zip(cuts.ids, frames, strict=True)}
        store.verify(expected, quantizer_id=quantizer.id)
        logging.info(
            "%s: %d utterances, %d frames of %d codebooks, verified",
            store.path,
            len(store),
            store.total_frames,
            info.num_codebooks,
        )


class Encoder:
    """Codes of utterances' embeddings, with the features' help if that is wanted."""

    def __init__(self, quantizer: Quantizer, options: argparse.Namespace) -> None:
        self._quantizer = quantizer
        self._rate_weight: float = options.rate_weight
        if not 0 <= self._rate_weight < float("inf"):
            raise UserError(f"--rate-weight is {self._rate_weight}", remedy="0, or some 0.01")
        if self._rate_weight:
            device = quantizer.mean.device
            path = options.quantizer.with_suffix(".probe.pt")
            self._probe = CodeProbe.load(path, device=device)
            if self._probe.quantizer_id != quantizer.id:
                raise UserError(
                    f"{path} tells of codes of quantizer {self._probe.quantizer_id}, "
                    f"{options.quantizer} is {quantizer.id}",
                    remedy="delete both, and train them again",
                )
            self._features = FeatureReader(options.cuts)

    def __call__(self, x: torch.Tensor, utterance: str) -> np.ndarray:
        """(T, D) -> (T, Q)."""
        if not x.isfinite().all():
            raise UserError(
                f"utterance {utterance}: the teacher's embeddings have NaN or infinity",
                remedy="check its audio; with --precision float16, take bfloat16 or float32",
            )
        if not self._rate_weight:
            return self._quantizer.encode(x).cpu().numpy()
        features = torch.from_numpy(self._features[utterance])
        codes = encode_predictably(
            self._quantizer, self._probe, x, features, rate_weight=self._rate_weight
        )
        return codes.cpu().numpy()


if __name__ == "__main__":
    run_program(main)
