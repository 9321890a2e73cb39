"""Corpora to manifests, features, tokens and batches.

Stage by stage: `corpus` and `manifests` (1), `features` and `extraction` (2), `tokenizer` and
`lang` (3); training and decoding then read batches with `loader`.
"""

from mvqkd.data.batch import Batch
from mvqkd.data.loader import BatchLoader, eval_loader, train_loader
from mvqkd.data.spec_augment import SpecAugment
from mvqkd.data.tokenizer import Tokenizer

__all__ = ["Batch", "BatchLoader", "SpecAugment", "Tokenizer", "eval_loader", "train_loader"]
