#!/usr/bin/env python3
"""Speed and size of features: extraction, storage, and loaders.

    benchmarks/features.py --data-dir data/mini_librispeech --split dev-clean-2

Needs the manifests of stage 1 and the tokens of stage 3. Prints a Markdown table
of x real time on one core, and megabytes per hour of audio. Files go to a temporary
folder.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import lilcom
import numpy as np
import torch
from lhotse import MonoCut

from mvqkd.data.folder import DataFolder
from mvqkd.data.loading.batch_loader import BatchLoader
from mvqkd.data.loading.epochs import TrainingPlan
from mvqkd.data.loading.index import open_index
from mvqkd.data.loading.limits import StepSize
from mvqkd.data.loading.plan import StepPlan
from mvqkd.data.loading.pool import open_pool
from mvqkd.data.prepare.fbank import manifest_cuts, store_cuts, store_features
from mvqkd.data.prepare.tokens import check_tokens
from mvqkd.features.fbank import extract, fbank
from mvqkd.features.reading import read_audio
from mvqkd.recipe.program import run_program


def rate(hours: float, work: Callable[[], object], repeats: int) -> float:
    """Speed in x real time on one core: CPU time, the best of some runs after one to warm up.

    CPU time says the same on a busy machine.
    """
    work()
    times = []
    for _ in range(repeats):
        begin = time.process_time()
        work()
        times.append(time.process_time() - begin)
    return hours * 3600 / min(times)


def single_steps(cuts: list[MonoCut], hours: float, repeats: int) -> list[tuple[str, str, str]]:
    """What one process does in extraction and reading."""
    fbank()
    audio = [read_audio(cut) for cut in cuts]
    features = [extract(samples) for samples in audio]
    packed = [lilcom.compress(matrix.copy(), tick_power=-5) for matrix in features]
    halves = [matrix.astype(np.float16) for matrix in features]

    def size(num_bytes: int) -> str:
        return f"{num_bytes / 1e6 / hours:.1f}"

    steps: list[tuple[str, Callable[[], object], str]] = [
        ("read audio", lambda: [read_audio(cut) for cut in cuts], ""),
        (
            "read audio at speed 0.9",
            lambda: [read_audio(cut.perturb_speed(0.9)) for cut in cuts],
            "",
        ),
        ("fbank", lambda: [extract(samples) for samples in audio], ""),
        (
            "lilcom, compress",
            lambda: [lilcom.compress(matrix.copy(), tick_power=-5) for matrix in features],
            size(sum(map(len, packed))),
        ),
        ("lilcom, decompress", lambda: [lilcom.decompress(data) for data in packed], ""),
        (
            "float16 to float32, for comparison",
            lambda: [matrix.astype(np.float32) for matrix in halves],
            size(sum(matrix.nbytes for matrix in halves)),
        ),
    ]
    return [(name, f"{rate(hours, work, repeats):.0f}", mb) for name, work, mb in steps]


def loaders(
    cuts: list[MonoCut], lang: Path, folder: Path, hours: float, repeats: int
) -> list[tuple[str, str, str]]:
    """Batches of 200 s, from stored features and on the fly."""
    rows = []
    for kind in ("stored", "on the fly"):
        path = folder / f"x_cuts_{kind.replace(' ', '-')}.jsonl.gz"
        if kind == "stored":
            store_features(cuts, path, num_jobs=1)
        else:
            store_cuts(cuts, path)
        check_tokens(path, lang)
        step = StepSize(duration=200, tokens=10**6)
        pool = open_pool([path], lang, step)
        batches = BatchLoader(pool.indexes, TrainingPlan(pool, step, num_buckets=10, seed=0))
        batches.set_epoch(1)
        num_bytes = sum(archive.stat().st_size for archive in folder.glob("feats_*/*.lca"))
        size = f"{num_bytes / 1e6 / hours:.1f}" if kind == "stored" else "0"
        speed = rate(hours, partial(list, batches), repeats)
        rows.append((f"loader, features {kind}", f"{speed:.0f}", size))
    return rows


def planning(num: int) -> list[str]:
    """Seconds to plan an epoch of a large corpus, of which resuming is a slice."""
    random = np.random.default_rng(0)
    seconds = random.uniform(1, 20, num)
    tokens = random.poisson(5 * seconds)
    begin = time.process_time()
    sizes = np.maximum(seconds / 200, tokens / 10**6)
    batches = StepPlan(seconds, sizes, num_buckets=30, seed=0)(1)
    took = time.process_time() - begin
    padded = sum(len(batch) * seconds[batch].max() for batch in batches)
    return [
        f"Planning an epoch of {num} cuts ({len(batches)} steps): {took:.2f} s; "
        f"{100 * (1 - seconds.sum() / padded):.1f} % of the frames in batches are padding."
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="prepared data")
    parser.add_argument("--split", required=True, help="split of the corpus")
    parser.add_argument("--vocab-size", type=int, help="tokens (default: those of stage 3)")
    parser.add_argument("--repeats", type=int, default=3, help="runs, of which the best counts")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = DataFolder(options.data_dir)
    cuts = manifest_cuts(data, options.split)
    hours = sum(cut.duration for cut in cuts) / 3600
    lang = data.lang(options.vocab_size)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in ("bpe.model", "tokens.txt"):
            (folder / name).write_bytes((lang / name).read_bytes())
        rows = single_steps(cuts, hours, options.repeats)
        rows += loaders(cuts, folder, folder, hours, options.repeats)
        opening = time.process_time()
        open_index(folder / "x_cuts_stored.jsonl.gz", folder)
        opening = time.process_time() - opening
    print(f"{len(cuts)} cuts, {hours:.2f} h of audio\n")
    print("| one core | x real time | MB per hour of audio |\n|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    print(f"\nOpening the index of {len(cuts)} cuts: {opening * 1000:.1f} ms.")
    print("\n".join(planning(1_000_000)))


if __name__ == "__main__":
    run_program(main)
