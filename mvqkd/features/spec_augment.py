"""SpecAugment (Park et al. 2019, arXiv 1904.08779) on padded batches, without time warping.

Time warping would move the student's frames away from the teacher's targets.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class SpecAugment(nn.Module):
    """Replace bands of frequencies and spans of time by the utterance's mean energy.

    The adaptive policy of Park et al. 2020 (arXiv 1912.05533) as lhotse and icefall have it: an
    utterance of T frames may have `budget = max_masked_fraction * T` frames masked; it gets
    `min(num_time_masks, ceil(budget / time_mask_size))` spans, each of uniformly random length up
    to `min(time_mask_size, budget // spans)`. Spans may overlap.

    Args:
        num_time_masks: most spans of frames in an utterance.
        time_mask_size: longest span, in frames.
        max_masked_fraction: largest fraction of an utterance's frames that its spans may cover.
        num_frequency_masks: bands of frequencies in an utterance.
        frequency_mask_size: widest band, in mel bins.
        probability: that an utterance is masked at all.
    """

    def __init__(
        self,
        *,
        num_time_masks: int = 10,
        time_mask_size: int = 100,
        max_masked_fraction: float = 0.15,
        num_frequency_masks: int = 2,
        frequency_mask_size: int = 27,
        probability: float = 0.9,
    ) -> None:
        super().__init__()
        if not 0 <= probability <= 1 or not 0 <= max_masked_fraction <= 1:
            raise ValueError("probability and max_masked_fraction are between 0 and 1")
        if min(num_time_masks, num_frequency_masks, frequency_mask_size) < 0 or time_mask_size < 1:
            raise ValueError("numbers and sizes of masks are not negative, time_mask_size positive")
        self.num_time_masks = num_time_masks
        self.time_mask_size = time_mask_size
        self.max_masked_fraction = max_masked_fraction
        self.num_frequency_masks = num_frequency_masks
        self.frequency_mask_size = frequency_mask_size
        self.probability = probability

    @torch.no_grad()
    def forward(
        self, features: Tensor, lens: Tensor, seeds: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Mask a batch.

        Args:
            features: (N, T, C) float.
            lens: (N,) valid frames. Padding is never changed.
            seeds: N, of the masks of each utterance, which are the same in any batch.

        Returns:
            Masked copy (N, T, C), and (N, T) bool: True in frames masked in time.
        """
        _, num_frames, num_bins = features.shape
        lens = lens.to(features.device)

        counts = [1, *[self.num_time_masks] * 2, *[self.num_frequency_masks] * 2]
        uniform = torch.stack([_uniform(seed, sum(counts)) for seed in seeds])
        choice, widths, places, bin_widths, bin_places = uniform.to(
            features.device, non_blocking=True
        ).split(counts, dim=1)
        chosen = choice < self.probability

        budget = self.max_masked_fraction * lens[:, None].double()  # (N, 1)
        spans = (budget / self.time_mask_size).ceil().clamp(max=self.num_time_masks)
        longest = (budget / spans.clamp(min=1)).floor().clamp(max=self.time_mask_size)
        wanted = torch.arange(self.num_time_masks, device=features.device) < spans
        widths = (widths * (longest + 1)).long()
        widths = widths * wanted * chosen
        time_mask = _cover(places, widths, lens[:, None], num_frames)

        widest = min(self.frequency_mask_size, num_bins)
        widths = (bin_widths * (widest + 1)).long() * chosen
        bins = torch.full_like(lens[:, None], num_bins)
        frequency_mask = _cover(bin_places, widths, bins, num_bins)

        valid = torch.arange(num_frames, device=features.device) < lens[:, None]  # (N, T)
        total = torch.where(valid[..., None], features, 0).sum((1, 2), dtype=torch.float32)
        mean = (total / (lens.clamp(min=1) * num_bins)).to(features.dtype)
        masked = (time_mask[:, :, None] | frequency_mask[:, None, :]) & valid[..., None]
        return torch.where(masked, mean[:, None, None], features), time_mask


def _uniform(seed: int, count: int) -> Tensor:
    """(count,) in [0, 1)."""
    return torch.rand(count, generator=torch.Generator().manual_seed(seed))


def _cover(position: Tensor, widths: Tensor, sizes: Tensor, length: int) -> Tensor:
    """(N, length) bool: the union of M intervals.

    Args:
        position: (N, M) in [0, 1): where an interval lies among its possible places.
        widths: (N, M) int64.
        sizes: (N, 1) int64: an interval lies within [0, size).
        length: of the result.
    """
    starts = (position * (sizes - widths + 1)).long()
    axis = torch.arange(length, device=widths.device)
    inside = (axis >= starts[..., None]) & (axis < (starts + widths)[..., None])  # (N, M, length)
    return inside.any(1)
