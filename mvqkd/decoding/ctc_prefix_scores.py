"""CTC probabilities of prefixes, for the joint search of attention and CTC."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mvqkd.geometry import BLANK

_SMALLEST = -1e4  # for exp() zero as -inf, without the nan of sums and differences


class PrefixState(NamedTuple):
    """Of hypotheses, R = N * B of them: log-probabilities, summed over alignments, of all that was
    emitted up to each frame being the hypothesis."""

    token: Tensor
    """(R, T) float64: alignments that end in its last token."""
    blank: Tensor
    """(R, T) float64: alignments that end in a blank."""
    last: Tensor
    """(R,) int64: the last token; -1 of empty hypotheses."""


class CTCPrefixScores:
    """log P(all transcripts that begin with a prefix) under a CTC head (Watanabe et al. 2017,
    "Hybrid CTC/attention architecture", section III.B.2, algorithm 2), batched.

    The recursions over frames are linear, so each is a cumulative sum: with L the cumulative
    log-probability of a token, r(t) = sum_{s <= t} phi(s) exp(L(t) - L(s - 1)). In float64, since
    L reaches thousands.

    Args:
        log_probs: (N, T, V) of the CTC head, blank at 0.
        lens: (N,) valid frames, positive.
    """

    def __init__(self, log_probs: Tensor, lens: Tensor) -> None:
        self._log_probs = log_probs.double().clamp(min=_SMALLEST)
        self._lens = lens
        frames = torch.arange(log_probs.size(1), device=lens.device)
        self._after = frames >= lens.unsqueeze(1)  # (N, T)

    def keep(self, utterances: Tensor) -> CTCPrefixScores:
        """Those of some utterances."""
        return CTCPrefixScores(self._log_probs[utterances], self._lens[utterances])

    def start(self, beam_size: int) -> PrefixState:
        """State of B empty hypotheses for each utterance."""
        blank = self._log_probs[:, :, BLANK].cumsum(1).repeat_interleave(beam_size, dim=0)
        last = torch.full((len(blank),), -1, dtype=torch.int64, device=blank.device)
        return PrefixState(torch.full_like(blank, -torch.inf), blank, last)

    def end(self, state: PrefixState) -> Tensor:
        """(R,): log P of the hypotheses as whole transcripts."""
        beam_size = len(state.last) // len(self._lens)
        final = (self._lens - 1).repeat_interleave(beam_size).unsqueeze(1)
        ended = torch.logaddexp(state.token.gather(1, final), state.blank.gather(1, final))
        return ended.squeeze(1)

    def extend(self, state: PrefixState, tokens: Tensor) -> tuple[Tensor, PrefixState]:
        """Hypotheses with one more token.

        Args:
            state: of R = N * B hypotheses.
            tokens: (R, C) int64, neither blank nor `<sos/eos>`.

        Returns:
            (R, C), the scores of the longer prefixes, and their state with R * C rows.
        """
        num, choices = tokens.shape
        beam_size = num // len(self._lens)
        index = tokens.view(len(self._lens), 1, -1).expand(-1, self._log_probs.size(1), -1)
        emitted = self._log_probs.gather(2, index)  # (N, T, B * C)
        emitted = emitted.transpose(1, 2).reshape(num, choices, -1)  # (R, C, T)
        # Alignments that can emit the token next: an equal last token needs a blank between.
        repeated = (tokens == state.last.unsqueeze(1)).unsqueeze(2)
        before_token = state.token.unsqueeze(1).masked_fill(repeated, -torch.inf)
        ready = torch.logaddexp(before_token, state.blank.unsqueeze(1).expand_as(emitted))
        # Before the first frame only the empty hypothesis is there.
        empty = torch.where(state.last < 0, 0.0, -torch.inf).to(ready)
        first = empty[:, None, None].expand(-1, choices, 1)
        ready = torch.cat([first, ready[..., :-1]], dim=2)
        after = self._after.repeat_interleave(beam_size, dim=0).unsqueeze(1)
        scores = (ready + emitted).masked_fill(after, -torch.inf).logsumexp(2)
        token = _accumulate(ready, emitted)
        blanks = self._log_probs[:, :, BLANK].repeat_interleave(beam_size, dim=0)
        blanks = blanks.unsqueeze(1).expand_as(emitted)
        never = torch.full_like(first, -torch.inf)
        blank = _accumulate(torch.cat([never, token[..., :-1]], dim=2), blanks)
        return scores, PrefixState(token.flatten(0, 1), blank.flatten(0, 1), tokens.flatten())


def _accumulate(entering: Tensor, emitted: Tensor) -> Tensor:
    """r(t) = (r(t - 1) + entering(t)) * emitted(t), in logarithms along the last axis."""
    total = emitted.cumsum(-1)
    return total + (entering - (total - emitted)).logcumsumexp(-1)
