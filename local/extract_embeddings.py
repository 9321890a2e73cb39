#!/usr/bin/env python3
"""Extract a teacher's embeddings of a random sample of utterances, to train a quantizer on.

    python local/extract_embeddings.py \\
        --cuts data/x/fbank/librispeech_cuts_train-clean-100.jsonl.gz \\
        --teacher torchaudio:HUBERT_ASR_XLARGE --layers 36 --output data/x/embeddings
    torchrun --nproc-per-node 4 local/extract_embeddings.py ...

Writes <output>/layer-<i>/embeddings-<k>-of-<n>.h5. Killed, the same command goes on with the shards
that are missing.
"""

from __future__ import annotations

import argparse
import logging
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch

from mvqkd.data.alignment import require_ratio
from mvqkd.data.audio_cuts import AudioCuts
from mvqkd.data.embeddings import EmbeddingsInfo, EmbeddingStore, write_embeddings
from mvqkd.errors import UserError
from mvqkd.experiment.program import at_least, run_program
from mvqkd.geometry import SAMPLE_RATE
from mvqkd.teachers import load_teacher
from mvqkd.teachers.audio import embed
from mvqkd.teachers.shards import Tick, divide, divide_parts, prepare_folder, process_shards, worker


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--cuts", type=Path, nargs="+", required=True, help="manifests of cuts with audio")
    add(
        "--teacher", required=True, help="URI: torchaudio:NAME, hf:ID, ...; see mvqkd.teachers.load"
    )
    add("--layers", type=int, nargs="+", required=True, help="1-based; 0: input of the first")
    add("--output", type=Path, required=True, help="folder")
    add("--num-utterances", type=at_least(0), default=1000, help="sample; 0: all (%(default)s)")
    add("--seed", type=int, default=0, help="of the sample (%(default)s)")
    add("--dtype", choices=["float16", "float32"], default="float16", help="in the files")
    add("--precision", choices=["float32", "bfloat16", "float16"], default="float32")
    add("--max-duration", type=float, default=100.0, help="seconds in a batch (%(default)s)")
    add("--shard-hours", type=float, default=1.0, help="hours of audio in a file (%(default)s)")
    add("--num-workers", type=at_least(0), default=2, help="processes reading audio (%(default)s)")
    options = parser.parse_args()

    rank, _, device = worker()
    cuts = AudioCuts(options.cuts)
    numbers = cuts.sample(options.num_utterances, options.seed)
    if not numbers:
        raise UserError(f"there are no cuts in {options.cuts[0]}", remedy="./run.sh --stage 2")
    seconds = cuts.num_samples / SAMPLE_RATE
    layers = sorted(set(options.layers))
    teacher = load_teacher(options.teacher, layers, device=device)
    # Refused here, and not when a training begins, hours of extraction later.
    require_ratio(teacher.frame_rate)
    frames = teacher.output_lens(torch.from_numpy(cuts.num_samples)).numpy()
    if len(numbers) < len(cuts):
        shards = divide(numbers, seconds, options.shard_hours)
        names = ["sample"] * len(shards)
    else:
        shards, names = divide_parts(cuts.parts, seconds, options.shard_hours)
    paths = {
        layer: prepare_folder(
            options.output / f"layer-{layer}", [f"embeddings-{name}" for name in names]
        )
        for layer in layers
    }
    for shards_of_layer in paths.values():
        _refuse_sample_beside_all(shards_of_layer, sampled=len(numbers) < len(cuts))
    infos = {
        layer: EmbeddingsInfo(options.teacher, layer, teacher.frame_rate, teacher.dim)
        for layer in layers
    }
    total = int(frames[numbers].sum())
    size = total * teacher.dim * np.dtype(options.dtype).itemsize * len(layers)
    if rank == 0:
        logging.info(
            "%d utterances, %.2f h: %d frames of %d at %g Hz, %d layers, will take %.2f GB in %s",
            len(numbers),
            seconds[numbers].sum() / 3600,
            total,
            teacher.dim,
            teacher.frame_rate,
            len(layers),
            size / 1e9,
            options.output,
        )
    there = sum(
        path.stat().st_size for folder in paths.values() for path in folder if path.is_file()
    )
    if shutil.disk_usage(options.output).free < size - there:
        raise UserError(
            f"{options.output} has no room for {size / 1e9:.1f} GB",
            remedy="another disk, fewer --num-utterances, or --dtype float16",
        )

    def check(shard: int) -> None:
        wanted = {cuts.ids[number]: int(frames[number]) for number in shards[shard]}
        for layer, info in infos.items():
            store = EmbeddingStore(paths[layer][shard])
            found = {utterance: len(store[utterance]) for utterance in store}
            if store.info != info or found != wanted or store.dtype != options.dtype:
                raise UserError(
                    f"{store.path} is of another teacher or other utterances",
                    remedy=f"remove {store.path.parent}, or give another --output",
                )

    def make(shard: int, tick: Tick) -> None:
        count = int(frames[shards[shard]].sum())
        with ExitStack() as stack:
            writers = {
                layer: stack.enter_context(
                    write_embeddings(
                        paths[layer][shard],
                        info=info,
                        total_frames=count,
                        dtype=options.dtype,
                    )
                )
                for layer, info in infos.items()
            }
            for number, embeddings in embed(
                teacher,
                cuts,
                shards[shard],
                device=device,
                max_duration=options.max_duration,
                num_workers=options.num_workers,
                precision=options.precision,
            ):
                for layer, x in embeddings.items():
                    writers[layer].write(cuts.ids[number], x.cpu().numpy())
                tick(number)

    process_shards(
        shards,
        seconds,
        files=lambda shard: [paths[layer][shard] for layer in layers],
        check=check,
        make=make,
    )
    if rank == 0:
        for layer in layers:
            store = EmbeddingStore(options.output / f"layer-{layer}")
            store.require(ids=(cuts.ids[number] for number in numbers))
            logging.info("%s: %d utterances, %d frames", store.path, len(store), total)


def _refuse_sample_beside_all(paths: Sequence[Path], *, sampled: bool) -> None:
    """The same utterances would be in the folder twice, which is noticed when it is read."""
    folder = paths[0].parent
    samples = set(folder.glob("embeddings-sample-*.h5"))
    others = set(folder.glob("embeddings-*.h5")) - samples if sampled else samples
    if others - set(paths):
        raise UserError(
            f"{folder} has embeddings of {'all' if sampled else 'a sample of the'} utterances: "
            f"{min(others).name}",
            remedy="give another --output, or remove them",
        )


if __name__ == "__main__":
    run_program(main)
