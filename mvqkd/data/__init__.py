"""Corpora to manifests, features, tokens and batches.

Stage 1: `corpus`, `audio`, `manifests`; stage 2: `features`, `extraction`; stage 3: `tokenizer`,
`lang`. Training and decoding read batches with `loader`, which reads manifests through `index` and
composes batches by `plan`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mvqkd.data.batch import Batch
    from mvqkd.data.loader import BatchLoader, eval_loader, train_loader
    from mvqkd.data.spec_augment import SpecAugment
    from mvqkd.data.tokenizer import Tokenizer

_MODULES = {
    "Batch": "batch",
    "BatchLoader": "loader",
    "SpecAugment": "spec_augment",
    "Tokenizer": "tokenizer",
    "eval_loader": "loader",
    "train_loader": "loader",
}

__all__ = ["Batch", "BatchLoader", "SpecAugment", "Tokenizer", "eval_loader", "train_loader"]


def __getattr__(name: str) -> Any:
    """Import on first use: names of parts and codes are read without torch and lhotse."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
