"""Imitation of a teacher's frames, at present and in the future, as auxiliary non-streaming layers
are trained for it (Shim et al. 2023, arXiv 2308.16415)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mvqkd.models.masks import valid_frames


def feature_loss(student: Tensor, teacher: Tensor, lens: Tensor) -> Tensor:
    """l1 distance and cosine similarity of frames, summed over an utterance's frames:

        L = sum_t [ |h_t - z_t|_1 / D - log sigmoid(cos(h_t, z_t)) ]

    Args:
        student: z (N, T, D); anything after an utterance's end.
        teacher: h (N, T, D), likewise.
        lens: (N,) int64 valid frames.

    Returns:
        (N,) losses, float32 (float64 if `student` is).
    """
    dtype = torch.promote_types(student.dtype, torch.float32)
    padding = ~valid_frames(lens, student.size(1))
    with torch.autocast(student.device.type, enabled=False):
        # Before the arithmetic: what stands in the padding may not even be a number.
        z = student.to(dtype).masked_fill(padding.unsqueeze(2), 0.0)
        h = teacher.to(dtype).masked_fill(padding.unsqueeze(2), 0.0)
        distances = (h - z).abs().mean(2) - F.logsigmoid(F.cosine_similarity(h, z, dim=2))
        return distances.masked_fill(padding, 0.0).sum(1)


def future_loss(predicted: Tensor, teacher: Tensor, lens: Tensor, shift: int) -> Tensor:
    """Autoregressive predictive coding (Chung et al. 2019, arXiv 1904.03240) of the teacher: the
    `feature_loss` between r_t and h_{t + shift}. The last `shift` frames have no future.

    Args:
        predicted: r (N, T, D); anything after an utterance's end.
        teacher: h (N, T, D), likewise.
        lens: (N,) int64 valid frames.
        shift: n, frames; it may exceed an utterance.

    Returns:
        (N,) losses, float32 (float64 if `predicted` is).
    """
    return feature_loss(
        predicted[:, : max(0, predicted.size(1) - shift)],
        teacher[:, shift:],
        (lens - shift).clamp(min=0),
    )
