"""Decoding of all batches of a split."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from mvqkd.data.loading.batch_loader import EvaluationBatches
from mvqkd.decoding.hypothesis import Hypothesis

Decode = Callable[[Tensor, Tensor], list[list[Hypothesis]]]
"""Features (N, T, C) and lens (N,) -> hypotheses of each utterance, the best first."""


@dataclass
class Recognized:
    """One utterance."""

    id: str
    text: str
    """What was said."""
    hypotheses: list[Hypothesis]
    """The best first."""


@dataclass
class Timing:
    """How fast the decoding was; reading features is not counted."""

    audio_seconds: float = 0.0
    seconds: float = 0.0

    @property
    def real_time_factor(self) -> float:
        """Seconds of computing for a second of audio."""
        return self.seconds / self.audio_seconds if self.audio_seconds else 0.0


def recognize(
    batches: EvaluationBatches, decode: Decode, device: torch.device, *, name: str
) -> tuple[list[Recognized], Timing]:
    """Decode every utterance, with a progress bar that shows the real-time factor.

    Args:
        batches: of a split.
        decode: decodes a batch on `device`.
        device: where the model is.
        name: of the split, for the progress bar.
    """
    results: list[Recognized] = []
    timing = Timing()
    with tqdm(total=len(batches), desc=name, unit="batch", dynamic_ncols=True) as bar:
        for batch in batches:
            begin = time.perf_counter()
            batch = batch.to(device)
            # The hypotheses are Python numbers: when they are there, the device has finished.
            found = decode(batch.features, batch.feature_lens)
            timing.seconds += time.perf_counter() - begin
            timing.audio_seconds += batch.seconds
            results += map(Recognized, batch.ids, batch.texts, found)
            bar.set_postfix_str(f"RTF {timing.real_time_factor:.4f}", refresh=False)
            bar.update()
    return results, timing
