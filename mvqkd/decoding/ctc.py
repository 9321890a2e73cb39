"""Greedy search of a CTC head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mvqkd.decoding.hypothesis import History, Hypothesis, hypothesis
from mvqkd.decoding.search import log_probs
from mvqkd.geometry import UNK
from mvqkd.models import CTCHead


class CTCState(NamedTuple):
    """N streams."""

    last: Tensor
    """(N,) int64: the symbol of the last frame."""
    scores: Tensor
    """(N,) float64: log-probability of the path."""
    offsets: list[int]
    """Encoder frames searched so far."""
    histories: list[History | None]
    """What each stream emitted."""


class CTCGreedySearch:
    """The most probable symbol at each frame, repetitions merged and blanks removed, batched.

    Args:
        head: the CTC head.
        blank_penalty: subtracted from the blank's logit.
        unk: id of `<unk>`, which is removed as blanks are; None when the vocabulary has none.
    """

    def __init__(self, head: CTCHead, *, blank_penalty: float = 0.0, unk: int | None = UNK) -> None:
        self.head = head
        self.blank = head.blank
        self.blank_penalty = blank_penalty
        self.unk = unk

    def start(self, batch_size: int) -> CTCState:
        """State of N new streams."""
        device = self.head.output.weight.device
        return CTCState(
            torch.full((batch_size,), self.blank, device=device),
            torch.zeros(batch_size, dtype=torch.float64, device=device),
            [0] * batch_size,
            [None] * batch_size,
        )

    @torch.no_grad()
    def advance(self, state: CTCState, encoder_out: Tensor, lens: Tensor) -> CTCState:
        """Search the next frames: (N, T, D), (N,) valid ones."""
        frames = torch.arange(encoder_out.size(1), device=lens.device)
        valid = frames < lens.unsqueeze(1)
        values, best = log_probs(self.head(encoder_out), self.blank, self.blank_penalty).max(-1)
        before = torch.cat([state.last.unsqueeze(1), best], dim=1)
        emits = valid & (best != self.blank) & (best != before[:, :-1])
        if self.unk is not None:
            emits &= best != self.unk
        histories = []
        rows = (best.cpu(), values.cpu(), emits.cpu())
        for history, offset, row, value, mask in zip(
            state.histories, state.offsets, *rows, strict=True
        ):
            times = mask.nonzero().squeeze(1)
            found = (row[times], times + offset, value[times])
            histories.append(History.extend(history, *(part.tolist() for part in found)))
        return CTCState(
            before.gather(1, lens.unsqueeze(1)).squeeze(1),
            state.scores + values.where(valid, 0.0).sum(1, dtype=torch.float64),
            [offset + num for offset, num in zip(state.offsets, lens.tolist(), strict=True)],
            histories,
        )

    def hypotheses(self, state: CTCState) -> list[list[Hypothesis]]:
        """One hypothesis for each stream."""
        return [
            [hypothesis(history, score)]
            for history, score in zip(state.histories, state.scores.tolist(), strict=True)
        ]

    def reset(self, state: CTCState) -> CTCState:
        """Forget what was found; a symbol that goes on is not emitted again."""
        scores = torch.zeros_like(state.scores)
        return state._replace(scores=scores, histories=[None] * len(scores))

    def stack(self, states: Sequence[CTCState]) -> CTCState:
        """Join states into one batch."""
        return CTCState(
            torch.cat([state.last for state in states]),
            torch.cat([state.scores for state in states]),
            [offset for state in states for offset in state.offsets],
            [history for state in states for history in state.histories],
        )

    def unstack(self, state: CTCState) -> list[CTCState]:
        """One state of batch size 1 for each stream."""
        return [
            CTCState(last, score, [offset], [history])
            for last, score, offset, history in zip(
                state.last.split(1),
                state.scores.split(1),
                state.offsets,
                state.histories,
                strict=True,
            )
        ]
