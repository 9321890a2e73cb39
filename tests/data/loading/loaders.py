"""Loaders of the tiny corpus, and what is in their batches."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mvqkd.data.loading.batch import Batch
from mvqkd.data.loading.batch_loader import BatchLoader
from mvqkd.data.loading.epochs import TrainingPlan
from mvqkd.data.loading.limits import StepSize
from mvqkd.data.loading.noise import NoiseMixer
from mvqkd.data.loading.pool import open_pool
from mvqkd.storage.jsonl import read_items

TRAIN = "fbank/tiny_cuts_train-tiny.jsonl.gz"


def loader(data: Path, **options: Any) -> BatchLoader:
    """Training steps, of the tiny corpus's training split unless `cuts` are given."""
    given = options.get
    step = StepSize(given("step_duration", 8.0), given("step_tokens", 1000))
    seed, ratio = given("seed", 5), given("unlabelled_ratio", 0.0)
    pool = open_pool(
        given("cuts", [data / TRAIN]),
        data / "lang_bpe_30",
        step,
        labelled_hours=given("labelled_hours", 0.0),
        unlabelled=ratio > 0,
        unlabelled_cuts=given("unlabelled_cuts", ()),
    )
    plan = TrainingPlan(
        pool,
        step,
        num_buckets=given("num_buckets", 2),
        seed=seed,
        unlabelled_ratio=ratio,
        rank=given("rank", 0),
        world_size=given("world_size", 1),
    )
    noise = None
    if musan := given("musan_path"):
        noise = NoiseMixer(
            musan, probability=given("musan_probability"), snr=(10.0, 20.0), seed=seed
        )
    names = ("keep_clean", "targets", "pad_multiple", "num_workers", "start_method")
    steps = BatchLoader(
        pool.indexes, plan, noise=noise, **{n: options[n] for n in names if n in options}
    )
    steps.set_epoch(given("epoch", 1), given("first", 0))
    return steps


def flat(steps: Iterable[Batch | list[Batch]]) -> list[Batch]:
    """The batches of a training's steps, or of an evaluation."""
    return [x for step in steps for x in (step if isinstance(step, list) else [step])]


def contents(steps: Iterable[Batch | list[Batch]]) -> list[tuple[Any, ...]]:
    return [
        (
            batch.ids,
            batch.texts,
            batch.hypotheses and batch.hypotheses.tokens.tolist(),
            batch.feature_lens.tolist(),
            batch.features.double().sum().item(),
        )
        for batch in flat(steps)
    ]


def hours_of_originals(data: Path) -> float:
    return sum(c["duration"] for c in read_items(data / TRAIN) if "_sp" not in c["id"]) / 3600


def labelled_ids(steps: Iterable[Batch | list[Batch]]) -> list[str]:
    return sorted(name for batch in flat(steps) if batch.labelled for name in batch.ids)


def unlabelled_ids(steps: Iterable[Batch | list[Batch]]) -> list[str]:
    return [name for batch in flat(steps) if not batch.labelled for name in batch.ids]
