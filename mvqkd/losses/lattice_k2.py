"""The lattice recursion by k2 (``k2.mutual_information_recursion``), where k2 is installed."""

from __future__ import annotations

import k2
import torch
from torch import Tensor


def forward_backward(
    symbol: Tensor, blank: Tensor, lens: Tensor, token_lens: Tensor, *, skew: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-likelihoods and occupancies; see :func:`mvqkd.losses.lattice.lattice_log_likelihood`.

    ``skew`` is 1 for the regular topology and 0 for the modified one.
    """
    num_utterances, num_frames, _ = symbol.shape
    # k2 wants (N, U, T). It distinguishes the topologies by the number of frames of px, one more
    # than py's in the regular one; no symbol may be emitted in that frame.
    px, py = symbol.transpose(1, 2), blank.transpose(1, 2).contiguous()
    if skew:
        px = torch.nn.functional.pad(px, (0, 1))
        behind = torch.arange(num_frames + 1, device=px.device) >= lens[:, None]
        px = px.masked_fill(behind[:, None], float("-inf"))
    boundary = torch.zeros(num_utterances, 4, dtype=torch.int64, device=px.device)
    boundary[:, 2], boundary[:, 3] = token_lens, lens
    scores, (px_grad, py_grad) = k2.mutual_information_recursion(
        px.contiguous(), py, boundary, return_grad=True
    )
    # k2 gives scores around -1e30 or -inf, and gradients that mean nothing, where there is no path.
    impossible = scores < -1e29
    return (
        scores.masked_fill(impossible, float("-inf")),
        px_grad[:, :, :num_frames].transpose(1, 2).masked_fill(impossible[:, None, None], 0.0),
        py_grad.transpose(1, 2).masked_fill(impossible[:, None, None], 0.0),
    )
