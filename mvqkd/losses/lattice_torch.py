"""The lattice recursion in plain torch: one batched operation per anti-diagonal (or frame)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# Stands for log 0 inside the recursion: -inf would give inf - inf = nan.
_LOG_ZERO = -1e30
# Totals below this are impossible lattices.
_IMPOSSIBLE = -1e29


def forward_backward(
    symbol: Tensor, blank: Tensor, lens: Tensor, token_lens: Tensor, *, skew: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-likelihoods and occupancies; see :func:`mvqkd.losses.lattice.lattice_log_likelihood`.

    ``skew`` is 1 for the regular topology and 0 for the modified one: step ``k = t + skew * s``
    visits cells that do not depend on each other.
    """
    num_utterances, num_frames, width = blank.shape
    if num_utterances == 0:
        return blank.new_zeros(0), torch.zeros_like(symbol), torch.zeros_like(blank)
    positions = torch.arange(width, device=blank.device)
    frames = torch.arange(num_frames, device=blank.device)
    valid = (frames < lens[:, None])[:, :, None] & (positions <= token_lens[:, None])[:, None]
    num_steps = num_frames + skew * (width - 1)
    # Step k enters cell (t, s) of step k + 1 from below by a symbol, from its left by a blank.
    from_symbol = _skew(symbol.masked_fill(~valid[:, :, 1:], _LOG_ZERO).clamp(min=_LOG_ZERO), skew)
    from_symbol = F.pad(from_symbol, (1, 0, 0, num_steps - from_symbol.shape[1]), value=_LOG_ZERO)
    from_blank = _skew(blank.masked_fill(~valid, _LOG_ZERO).clamp(min=_LOG_ZERO), skew)

    ends = lens + skew * token_lens  # the step of each utterance's last cell
    utterances = torch.arange(num_utterances, device=blank.device)
    scores = blank.new_full((num_utterances, width), _LOG_ZERO)
    scores[:, 0] = 0.0
    totals = torch.where(ends == 0, scores[utterances, token_lens], _LOG_ZERO)
    shares = []
    for k in range(num_steps):
        below = F.pad(scores[:, :-1], (1, 0), value=_LOG_ZERO)
        a, b = below + from_symbol[:, k], scores + from_blank[:, k]
        scores = torch.logaddexp(a, b)
        shares.append(torch.sigmoid(a - b))
        totals = torch.where(ends == k + 1, scores[utterances, token_lens], totals)

    possible = ~(totals < _IMPOSSIBLE)
    at_end = F.one_hot(token_lens, width).to(blank.dtype) * possible[:, None]
    symbol_steps, blank_steps = [], []
    occupancy = torch.zeros_like(scores)
    for k in reversed(range(num_steps)):
        occupancy = occupancy + at_end * (ends == k + 1)[:, None]
        came_by_symbol = occupancy * shares[k]
        came_by_blank = occupancy - came_by_symbol
        symbol_steps.append(came_by_symbol)
        blank_steps.append(came_by_blank)
        occupancy = came_by_blank + F.pad(came_by_symbol[:, 1:], (0, 1))
    if not num_steps:
        return totals, torch.zeros_like(symbol), torch.zeros_like(blank)
    symbol_occupancy = torch.stack(symbol_steps[::-1], dim=1)[:, :, 1:]
    blank_occupancy = torch.stack(blank_steps[::-1], dim=1)
    return (
        totals.masked_fill(~possible, float("-inf")),
        _unskew(symbol_occupancy, num_frames, skew),
        _unskew(blank_occupancy, num_frames, skew),
    )


def _skew(cells: Tensor, skew: int) -> Tensor:
    """(N, T, W) -> (N, T + W - 1, W) with ``out[:, t + s, s] = cells[:, t, s]``, else log 0."""
    if not skew:
        return cells
    num_utterances, num_frames, width = cells.shape
    rows = num_frames + width - 1
    if width == 0:
        return cells.new_empty(num_utterances, max(rows, 0), 0)
    # Rows that are one longer than their pitch shift by one from each to the next.
    padded = F.pad(cells.transpose(1, 2), (0, width), value=_LOG_ZERO).flatten(1)
    return padded[:, : width * rows].reshape(num_utterances, width, rows).transpose(1, 2)


def _unskew(steps: Tensor, num_frames: int, skew: int) -> Tensor:
    """The inverse of :func:`_skew`, for occupancies."""
    if not skew or steps.shape[2] == 0:
        return steps[:, :num_frames]
    num_utterances, _, width = steps.shape
    rows = num_frames + width - 1
    flat = F.pad(steps[:, :rows].transpose(1, 2).flatten(1), (0, width))
    return flat.reshape(num_utterances, width, rows + 1)[:, :, :num_frames].transpose(1, 2)
