"""Greedy search of a transducer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mvqkd.decoding.hypothesis import History, Hypothesis, hypothesis
from mvqkd.decoding.search import first_context, log_probs, longest_first, predict
from mvqkd.geometry import UNK
from mvqkd.models import TransducerHead

_LOOK_AHEAD = 8
"""Frames of a single stream whose logits are computed at once."""


class GreedyState(NamedTuple):
    """N streams."""

    context: Tensor
    """(N, context_size) int64: the predictor's input."""
    scores: Tensor
    """(N,) float64: log-probability of the path."""
    offsets: list[int]
    """Encoder frames searched so far."""
    histories: list[History | None]
    """What each stream emitted."""


class GreedySearch:
    """The most probable symbol at each frame, batched.

    `<unk>` counts as a blank, as in sherpa-onnx.

    Args:
        head: the transducer.
        max_symbols_per_frame: tokens that a frame may emit before the next frame's turn; 1 is what
            sherpa-onnx does.
        blank_penalty: subtracted from the blank's logit.
        unk: id of `<unk>`; None when the vocabulary has none.

    Raises:
        ValueError: max_symbols_per_frame is not positive.
    """

    def __init__(
        self,
        head: TransducerHead,
        *,
        max_symbols_per_frame: int = 1,
        blank_penalty: float = 0.0,
        unk: int | None = UNK,
    ) -> None:
        if max_symbols_per_frame < 1:
            raise ValueError(f"max_symbols_per_frame={max_symbols_per_frame} must be positive")
        self.head = head
        self.max_symbols_per_frame = max_symbols_per_frame
        self.blank_penalty = blank_penalty
        self.unk = unk

    def start(self, batch_size: int) -> GreedyState:
        """State of N new streams."""
        device = self.head.joiner.output.weight.device
        return GreedyState(
            first_context(self.head, batch_size, device),
            torch.zeros(batch_size, dtype=torch.float64, device=device),
            [0] * batch_size,
            [None] * batch_size,
        )

    @torch.no_grad()
    def advance(self, state: GreedyState, encoder_out: Tensor, lens: Tensor) -> GreedyState:
        """Search the next frames: (N, T, D), (N,) valid ones."""
        head, repeats = self.head, self.max_symbols_per_frame
        if len(lens) == 1 and repeats == 1:
            return self._advance_one(state, encoder_out[0, : int(lens)])
        order, inverse, active = longest_first(lens)
        frames = head.joiner.project_encoder(encoder_out)[order]
        context = state.context[order]
        scores = state.scores[order]
        predicted = predict(head, context)
        shape = (len(active) * repeats, len(order))
        record = torch.full(shape, head.blank, device=context.device)
        probable = torch.zeros(shape, dtype=torch.float32, device=context.device)
        for t, n in enumerate(active):
            going = None
            for repeat in range(repeats):
                logits = head.joiner(frames[:n, t], predicted[:n])
                values, best = log_probs(logits, head.blank, self.blank_penalty).max(-1)
                emits = best != head.blank
                if self.unk is not None:
                    emits &= best != self.unk
                if going is None:
                    scores[:n] += values
                else:  # at a repeated frame, only streams that have just emitted go on
                    scores[:n] += values.where(going, 0.0)
                    emits &= going
                rows = emits.nonzero().squeeze(1)
                if not len(rows):
                    break
                going = emits
                tokens = best[rows]
                record[t * repeats + repeat, rows] = tokens
                probable[t * repeats + repeat, rows] = values[rows].float()
                context[rows] = torch.cat([context[rows, 1:], tokens.unsqueeze(1)], dim=1)
                predicted[rows] = predict(head, context[rows])
        return GreedyState(
            context[inverse],
            scores[inverse],
            [offset + num for offset, num in zip(state.offsets, lens.tolist(), strict=True)],
            self._extend(state, record[:, inverse], probable[:, inverse]),
        )

    def _advance_one(self, state: GreedyState, encoder_out: Tensor) -> GreedyState:
        """`advance` of one stream by (T, D): up to the next token, frames have the same logits
        whether they are computed together or one after the other."""
        head, frames = self.head, self.head.joiner.project_encoder(encoder_out)
        context, scores, offset = state.context, state.scores.clone(), state.offsets[0]
        predicted = predict(head, context)
        tokens: list[int] = []
        steps: list[int] = []
        probable: list[float] = []
        first = 0
        while first < len(frames):
            logits = head.joiner(frames[first : first + _LOOK_AHEAD], predicted)
            values, best = log_probs(logits, head.blank, self.blank_penalty).max(-1)
            emits = [token not in (head.blank, self.unk) for token in best.tolist()]
            emitted = True in emits
            taken = emits.index(True) + 1 if emitted else len(emits)
            scores += values[:taken].sum(dtype=scores.dtype)
            first += taken
            if emitted:
                token = best[taken - 1 : taken]
                tokens.append(int(token))
                steps.append(offset + first - 1)
                probable.append(float(values[taken - 1].float()))
                context = torch.cat([context[:, 1:], token[None]], dim=1)
                predicted = predict(head, context)
        history = History.extend(state.histories[0], tokens, steps, probable)
        return GreedyState(context, scores, [offset + len(frames)], [history])

    def hypotheses(self, state: GreedyState) -> list[list[Hypothesis]]:
        """One hypothesis for each stream."""
        return [
            [hypothesis(history, score)]
            for history, score in zip(state.histories, state.scores.tolist(), strict=True)
        ]

    def reset(self, state: GreedyState) -> GreedyState:
        """Forget what was found, keep its last symbols as context."""
        scores = torch.zeros_like(state.scores)
        return state._replace(scores=scores, histories=[None] * len(scores))

    def stack(self, states: Sequence[GreedyState]) -> GreedyState:
        """Join states into one batch."""
        return GreedyState(
            torch.cat([state.context for state in states]),
            torch.cat([state.scores for state in states]),
            [offset for state in states for offset in state.offsets],
            [history for state in states for history in state.histories],
        )

    def unstack(self, state: GreedyState) -> list[GreedyState]:
        """One state of batch size 1 for each stream."""
        return [
            GreedyState(context, score, [offset], [history])
            for context, score, offset, history in zip(
                state.context.split(1),
                state.scores.split(1),
                state.offsets,
                state.histories,
                strict=True,
            )
        ]

    def _extend(self, state: GreedyState, record: Tensor, probable: Tensor) -> list[History | None]:
        """Append record (T * repeats, N), blank where nothing was emitted, to the histories.

        Args:
            probable: (T * repeats, N), log-probabilities of what was emitted.
        """
        histories = []
        for history, offset, row, values in zip(
            state.histories, state.offsets, record.t().cpu(), probable.t().cpu(), strict=True
        ):
            steps = (row != self.head.blank).nonzero().squeeze(1)
            frames = steps // self.max_symbols_per_frame + offset
            found = (row[steps], frames, values[steps])
            histories.append(History.extend(history, *(part.tolist() for part in found)))
        return histories


def greedy_search(
    head: TransducerHead,
    encoder_out: Tensor,
    lens: Tensor,
    *,
    max_symbols_per_frame: int = 1,
    blank_penalty: float = 0.0,
    unk: int | None = UNK,
) -> list[Hypothesis]:
    """Greedy search of whole utterances.

    Args:
        head: the transducer.
        encoder_out: (N, T, D), output of its encoder.
        lens: (N,) int64, valid frames.
        max_symbols_per_frame: tokens that a frame may emit; 1 is what sherpa-onnx does.
        blank_penalty: subtracted from the blank's logit.
        unk: id of `<unk>`, which counts as a blank; None when the vocabulary has none.

    Returns:
        One hypothesis for each utterance; its score is that of the path.
    """
    search = GreedySearch(
        head,
        max_symbols_per_frame=max_symbols_per_frame,
        blank_penalty=blank_penalty,
        unk=unk,
    )
    state = search.advance(search.start(len(lens)), encoder_out, lens)
    return [found[0] for found in search.hypotheses(state)]
