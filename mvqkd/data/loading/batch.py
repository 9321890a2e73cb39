"""What the loaders yield: a padded batch of utterances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from mvqkd.data.loading.hypotheses import Hypotheses, WeightedTokens, ground_truth, weighted
from mvqkd.data.targets.frame_targets import FrameTargets, Waveforms
from mvqkd.geometry import FEATURE_PADDING, FRAME_SHIFT, RECEPTIVE_FIELD, SUBSAMPLING
from mvqkd.runtime.tensors import pin_memory, to_device


@dataclass
class Batch:
    """Utterances padded to a common length, longest first.

    `features[n, feature_lens[n]:]` is `FEATURE_PADDING`.
    """

    ids: list[str]
    """Stable utterance ids; speed-perturbed copies end in `_sp0.9` or `_sp1.1`."""
    features: Tensor
    """(N, T, C) float32 log-mel energies, 100 frames a second."""
    feature_lens: Tensor
    """(N,) int64: valid frames of each utterance."""
    texts: list[str]
    """Transcripts; empty where they are not to be used."""
    hypotheses: Hypotheses | None
    """What the utterances are trained to be recognized as; None: they have no transcripts, or the
    loader no tokenizer."""
    seconds: float
    """Audio in the batch, excluding padding."""
    clean: Tensor | None = None
    """(N, T, C) the features without noise, if noise was mixed in and the loader keeps them."""
    noisy: bool = False
    """Whether noise was mixed into some of the features."""
    targets: dict[str, FrameTargets | Waveforms] = field(default_factory=dict)
    """The teacher's side of each distillation loss, by its name."""
    views: int = 1
    """How many times each utterance is in the batch, in as many rounds; see `repeat`."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labelled(self) -> bool:
        """Whether there are hypotheses."""
        return self.hypotheses is not None

    def labelled_frames(self, frames: Tensor) -> Tensor:
        """Scalar: those of (N,) frames that are of utterances with hypotheses."""
        if self.hypotheses is None:
            return torch.zeros_like(frames).sum()
        return frames[self.hypotheses.owned(len(frames))].sum()

    def to(self, device: torch.device | str, *, non_blocking: bool = True) -> Batch:
        """A copy whose tensors are on `device`."""
        return to_device(self, device, non_blocking=non_blocking)

    def pin_memory(self) -> Batch:
        """A copy in page-locked memory, from which `to` copies to a GPU in the background."""
        return pin_memory(self)

    def repeat(self, count: int) -> Batch:
        """Each utterance `count` times, one round after another: to augment each differently."""
        return replace(
            self,
            ids=self.ids * count,
            features=self.features.repeat(count, 1, 1),
            clean=None if self.clean is None else self.clean.repeat(count, 1, 1),
            feature_lens=self.feature_lens.repeat(count),
            texts=self.texts * count,
            hypotheses=self.hypotheses and self.hypotheses.repeat(count, len(self)),
            targets={name: x.repeat(count, len(self)) for name, x in self.targets.items()},
            views=self.views * count,
        )

    def first(self, count: int) -> Batch:
        """The first `count` utterances, without targets."""
        return replace(
            self,
            ids=self.ids[:count],
            features=self.features[:count],
            clean=None if self.clean is None else self.clean[:count],
            feature_lens=self.feature_lens[:count],
            texts=self.texts[:count],
            hypotheses=self.hypotheses and self.hypotheses.first(count),
            targets={},
        )


def collate(
    ids: Sequence[str],
    features: Sequence[np.ndarray],
    texts: Sequence[str],
    tokens: Sequence[np.ndarray] | None,
    *,
    hypotheses: Sequence[Sequence[WeightedTokens]] | None = None,
    clean: Sequence[np.ndarray] | None = None,
    pad_multiple: int = 1,
) -> Batch:
    """Pad utterances into a `Batch`, longest first (ties keep their order).

    Args:
        ids: N utterance ids.
        features: N arrays (T_n, C).
        texts: N transcripts.
        tokens: N integer arrays (U_n,), the ground truth; None leaves it out.
        hypotheses: those of N utterances, in place of the ground truth.
        clean: N arrays (T_n, C), the features without noise, to keep them too.
        pad_multiple: T is 3 more than a multiple of this. Subsampling by 4 without padding loses
            3 frames: 32 makes multiples of 8 of the encoder's frames.
    """
    order = sorted(range(len(ids)), key=lambda n: -len(features[n]))
    frames = [len(features[n]) for n in order]
    length = max(frames) + (RECEPTIVE_FIELD - SUBSAMPLING - max(frames)) % pad_multiple

    def pad(rows: Sequence[np.ndarray]) -> Tensor:
        padded = torch.full((len(ids), length, rows[0].shape[1]), FEATURE_PADDING)
        for row, n in enumerate(order):
            padded[row, : frames[row]] = torch.as_tensor(rows[n])
        return padded

    text = None
    if hypotheses is not None:
        text = weighted([hypotheses[n] for n in order])
    elif tokens is not None:
        text = ground_truth([tokens[n] for n in order])
    return Batch(
        ids=[ids[n] for n in order],
        features=pad(features),
        clean=None if clean is None else pad(clean),
        feature_lens=torch.tensor(frames),
        texts=[texts[n] for n in order],
        hypotheses=text,
        seconds=sum(frames) * FRAME_SHIFT,
    )
