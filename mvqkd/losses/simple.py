"""The simple joiner of the pruned transducer loss: logits that are sums of two terms.

With logits ``am[t] + lm[u]`` the normalizers of all pairs (t, u) are one matrix product of the
exponentials, so nothing of size (N, T, U, V) is needed (Kuang et al. 2022, arXiv 2206.13236,
section 3.1; smoothing: section 3.2).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def simple_log_probs(
    am: Tensor,
    lm: Tensor,
    tokens: Tensor,
    lens: Tensor,
    token_lens: Tensor,
    *,
    lm_scale: float = 0.0,
    am_scale: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the next token and of blank under the simple joiner, smoothed.

    The result is interpolated, with weight ``1 - lm_scale - am_scale`` for the log-probabilities of
    ``am + lm``, ``lm_scale`` for those of ``lm`` alone and ``am_scale`` for those of ``am`` and an
    average ``lm``. With scales above 0 these are not normalized log-probabilities
    any more. They keep ``am`` and ``lm`` meaningful each by itself.

    Args:
        am: (N, T, V), lm: (N, U + 1, V): float32 or float64.
        tokens: (N, U) int64, between 0 and V - 1 in padding too.
        lens: (N,), token_lens: (N,): valid frames and tokens. They matter only if ``am_scale`` is
            not 0: the average of ``lm`` is taken over the valid positions of the batch.

    Returns:
        symbol (N, T, U) and blank (N, T, U + 1).
    """
    symbol, blank = _AdditiveLogProbs.apply(am, lm, tokens)
    both_scale = 1.0 - lm_scale - am_scale
    if both_scale != 1.0:
        symbol, blank = symbol * both_scale, blank * both_scale
    if lm_scale:
        log_probs = lm.log_softmax(dim=2)
        by_symbol = log_probs[:, :-1].gather(2, tokens[:, :, None]).squeeze(2)
        symbol = symbol + lm_scale * by_symbol[:, None]
        blank = blank + lm_scale * log_probs[:, None, :, 0]
    if am_scale:
        positions = torch.arange(lm.shape[1], device=lm.device)
        valid = positions <= token_lens[:, None]
        unigram = (lm.softmax(dim=2) * valid[:, :, None]).sum((0, 1)) / valid.sum()
        log_probs = (am + unigram.clamp(min=torch.finfo(lm.dtype).tiny).log()).log_softmax(dim=2)
        by_frame = tokens[:, None].expand(-1, am.shape[1], -1)
        symbol = symbol + am_scale * log_probs.gather(2, by_frame)
        blank = blank + am_scale * log_probs[:, :, :1]
    return symbol, blank


class _AdditiveLogProbs(torch.autograd.Function):
    """``log_softmax(am[:, :, None] + lm[:, None])`` at the next tokens and at blank.

    By hand, because automatic differentiation would fill a zero tensor of am's size for each of
    the two gathers and add them up.
    """

    @staticmethod
    def forward(ctx: Any, am: Tensor, lm: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        num_frames = am.shape[1]
        am_max, lm_max = am.amax(dim=2, keepdim=True), lm.amax(dim=2, keepdim=True)
        am_exp, lm_exp = (am - am_max).exp_(), (lm - lm_max).exp_()
        # (N, T, U + 1). Without the smallest number, the log of a sum that underflows is -inf.
        sums = torch.bmm(am_exp, lm_exp.transpose(1, 2)).add_(torch.finfo(am.dtype).tiny)
        normalizers = sums.log().add_(am_max).add_(lm_max.transpose(1, 2))
        by_frame = tokens[:, None].expand(-1, num_frames, -1)
        symbol = am.gather(2, by_frame)
        symbol += lm[:, :-1].gather(2, tokens[:, :, None]).transpose(1, 2)
        symbol -= normalizers[:, :, :-1]
        blank = torch.sub(am[:, :, :1] + lm[:, :, 0].unsqueeze(1), normalizers, out=normalizers)
        ctx.save_for_backward(am_exp, lm_exp, sums, tokens)
        return symbol, blank

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_symbol, grad_blank = grads
        am_exp, lm_exp, sums, tokens = ctx.saved_tensors
        weights = grad_blank.clone()
        weights[:, :, :-1] += grad_symbol
        # Where a sum underflowed, its own reciprocal would make sums of weights infinite.
        weights /= sums.clamp(min=1e-30)
        by_frame = tokens[:, None].expand(-1, am_exp.shape[1], -1)
        grad_am = torch.bmm(weights, lm_exp).mul_(am_exp).neg_()
        grad_am.scatter_add_(2, by_frame, grad_symbol)
        grad_am[:, :, 0] += grad_blank.sum(dim=2)
        grad_lm = torch.bmm(weights.transpose(1, 2), am_exp).mul_(lm_exp).neg_()
        grad_lm[:, :-1].scatter_add_(2, tokens[:, :, None], grad_symbol.sum(dim=1)[:, :, None])
        grad_lm[:, :, 0] += grad_blank.sum(dim=1)
        return grad_am, grad_lm, None
