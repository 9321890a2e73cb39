"""CTC loss per utterance."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mvqkd.losses.checks import check_lens, check_tokens


def ctc_loss(log_probs: Tensor, tokens: Tensor, lens: Tensor, token_lens: Tensor) -> Tensor:
    """Negative log-likelihood of each utterance (Graves et al. 2006), summed over its frames.

    An utterance that has no alignment, because it has fewer frames than `ctc_frames`, gets loss 0
    and gradient 0 instead of infinity, so that it does not spoil its batch. Leave such utterances
    out in preparing the data.

    Args:
        log_probs: (N, T, V) log-probabilities, blank at 0. Computed in float32 at least.
        tokens: (N, U) int64 without blanks; padding may hold anything.
        lens: (N,) valid frames.
        token_lens: (N,) valid tokens.

    Returns:
        (N,), float32 (float64 if ``log_probs`` is).

    Raises:
        ValueError: lengths that are not those of the batch, or valid tokens (on a CPU) that are
            blank or not in the vocabulary.
    """
    check_lens("lens", lens, *log_probs.shape[:2])
    check_lens("token_lens", token_lens, *tokens.shape)
    # torch does not: it reads other memory.
    check_tokens(tokens, token_lens.to(tokens.device), log_probs.shape[2])
    positions = torch.arange(tokens.shape[1], device=tokens.device)
    # torch reads no padding, but refuses targets that are out of the vocabulary on some devices.
    tokens = tokens.masked_fill(positions >= token_lens.to(tokens.device)[:, None], 1)
    return F.ctc_loss(
        log_probs.to(torch.promote_types(log_probs.dtype, torch.float32)).transpose(0, 1),
        tokens,
        lens,
        token_lens,
        blank=0,
        reduction="none",
        zero_infinity=True,
    )


def ctc_frames(tokens: Tensor, token_lens: Tensor) -> Tensor:
    """Frames of each transcript's shortest alignment: one for each token, and one for the blank
    between equal neighbours.

    Args:
        tokens, token_lens: see `ctc_loss`.

    Returns:
        (N,) int64.
    """
    positions = torch.arange(1, tokens.shape[1], device=tokens.device)
    lens = token_lens.to(tokens.device)
    repeated = (tokens[:, 1:] == tokens[:, :-1]) & (positions < lens[:, None])
    return lens + repeated.sum(1)
