"""Consistency regularization of CTC."""

from __future__ import annotations

import torch
from torch import Tensor


def consistency_loss(log_probs: Tensor, lens: Tensor) -> Tensor:
    """How far two views of the same utterances are from each other, frame by frame: CR-CTC (Yao et
    al. 2024, arXiv 2410.05101, eq. 5).

    Each view is drawn to the other, which gets no gradient from that: for view a the sum over
    frames of KL(sg(b) || a). The paper's loss is the mean over both views.

    Args:
        log_probs: (2N, T, V) log-probabilities; row n + N is another view of row n.
        lens: (2N,) valid frames.

    Returns:
        (2N,) float32 (float64 if `log_probs` is), of each view.

    Raises:
        ValueError: an odd number of views.
    """
    if len(log_probs) % 2:
        raise ValueError(f"{len(log_probs)} views are not two of each utterance")
    log_probs = log_probs.to(torch.promote_types(log_probs.dtype, torch.float32))
    target = log_probs.detach().roll(len(log_probs) // 2, dims=0)
    divergence = (target.exp() * (target - log_probs)).sum(-1)
    valid = torch.arange(log_probs.shape[1], device=lens.device) < lens[:, None]
    return divergence.masked_fill(~valid, 0).sum(1)
