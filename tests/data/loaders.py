"""Loaders of the tiny corpus, and what is in their batches."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mvqkd.data import Batch, BatchLoader, train_loader
from mvqkd.data.jsonl import read_items

TRAIN = "fbank/tiny_cuts_train-tiny.jsonl.gz"


def loader(data: Path, **options: Any) -> BatchLoader:
    defaults: dict[str, Any] = dict(
        max_duration=8.0, max_tokens=1000, num_buckets=2, seed=5, epoch=1
    )
    path = data / "fbank/tiny_cuts_train-tiny.jsonl.gz"
    return train_loader(path, data / "lang_bpe_30", **(defaults | options))


def contents(batches: Iterable[Batch]) -> list[tuple[Any, ...]]:
    return [
        (
            batch.ids,
            batch.texts,
            batch.hypotheses and batch.hypotheses.tokens.tolist(),
            batch.feature_lens.tolist(),
            batch.features.double().sum().item(),
        )
        for batch in batches
    ]


def hours_of_originals(data: Path) -> float:
    return sum(c["duration"] for c in read_items(data / TRAIN) if "_sp" not in c["id"]) / 3600


def labelled_ids(batches: Iterable[Batch]) -> list[str]:
    return sorted(name for batch in batches if batch.labelled for name in batch.ids)


def unlabelled_ids(batches: Iterable[Batch]) -> list[str]:
    return [name for batch in batches if not batch.labelled for name in batch.ids]
