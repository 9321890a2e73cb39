"""What the loaders yield: a padded batch of utterances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mvqkd.geometry import (
    FEATURE_PADDING,
    FRAME_SHIFT,
    RECEPTIVE_FIELD,
    SUBSAMPLING,
    TARGET_PADDING,
)


@dataclass
class Batch:
    """Utterances padded to a common length, longest first.

    `features[n, feature_lens[n]:]` is `FEATURE_PADDING`, `tokens[n, token_lens[n]:]` is -100.
    Loaders without a tokenizer leave `tokens` of shape (N, 0).
    """

    ids: list[str]
    """Stable utterance ids; speed-perturbed copies end in `_sp0.9` or `_sp1.1`."""
    features: Tensor
    """(N, T, C) float32 log-mel energies, 100 frames a second."""
    feature_lens: Tensor
    """(N,) int64: valid frames of each utterance."""
    texts: list[str]
    """Transcripts."""
    tokens: Tensor
    """(N, U) int64 token ids of the transcripts."""
    token_lens: Tensor
    """(N,) int64: valid tokens of each utterance."""
    seconds: float
    """Audio in the batch, padding left out."""
    labelled: bool = True
    """False: its transcripts are not to be used; `texts` are empty and `tokens` is (N, 0)."""

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str, *, non_blocking: bool = True) -> Batch:
        """A copy whose tensors are on `device`."""
        return replace(
            self,
            features=self.features.to(device, non_blocking=non_blocking),
            feature_lens=self.feature_lens.to(device, non_blocking=non_blocking),
            tokens=self.tokens.to(device, non_blocking=non_blocking),
            token_lens=self.token_lens.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> Batch:
        """A copy in page-locked memory, from which `to` copies to a GPU in the background."""
        return replace(
            self,
            features=self.features.pin_memory(),
            feature_lens=self.feature_lens.pin_memory(),
            tokens=self.tokens.pin_memory(),
            token_lens=self.token_lens.pin_memory(),
        )


def collate(
    ids: Sequence[str],
    features: Sequence[np.ndarray],
    texts: Sequence[str],
    tokens: Sequence[np.ndarray],
    *,
    labelled: bool = True,
    pad_multiple: int = 1,
) -> Batch:
    """Pad utterances into a `Batch`, longest first (ties keep their order).

    Args:
        ids: N utterance ids.
        features: N arrays (T_n, C).
        texts: N transcripts.
        tokens: N integer arrays (U_n,).
        labelled: False leaves texts and tokens out of the batch.
        pad_multiple: T is 3 more than a multiple of this. Subsampling by 4 without padding loses
            3 frames: 32 makes multiples of 8 of the encoder's frames.
    """
    if not labelled:
        texts, tokens = [""] * len(ids), [np.zeros(0, np.int32)] * len(ids)
    order = sorted(range(len(ids)), key=lambda n: -len(features[n]))
    frames = [len(features[n]) for n in order]
    lens = [len(tokens[n]) for n in order]
    length = max(frames) + (RECEPTIVE_FIELD - SUBSAMPLING - max(frames)) % pad_multiple
    padded = torch.full((len(ids), length, features[0].shape[1]), FEATURE_PADDING)
    targets = torch.full((len(ids), max(lens)), TARGET_PADDING, dtype=torch.int64)
    for row, n in enumerate(order):
        padded[row, : frames[row]] = torch.as_tensor(features[n])
        targets[row, : lens[row]] = torch.as_tensor(np.asarray(tokens[n], dtype=np.int64))
    return Batch(
        ids=[ids[n] for n in order],
        features=padded,
        feature_lens=torch.tensor(frames),
        texts=[texts[n] for n in order],
        tokens=targets,
        token_lens=torch.tensor(lens),
        seconds=sum(frames) * FRAME_SHIFT,
        labelled=labelled,
    )
