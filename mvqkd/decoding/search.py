"""The one interface of the searches, and what they share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from mvqkd.decoding.hypothesis import Hypothesis
from mvqkd.models import TransducerHead

State = TypeVar("State")


class Search(Protocol[State]):
    """A search over encoder frames with an explicit state: it can go on with the next chunk.

    States hold N streams, of any ages. None is changed in place: an old one can be used again.
    """

    def start(self, batch_size: int) -> State:
        """State of N new streams."""
        ...

    def advance(self, state: State, encoder_out: Tensor, lens: Tensor) -> State:
        """Search the next frames of N streams.

        Args:
            state: of the frames before.
            encoder_out: (N, T, D).
            lens: (N,) int64, valid frames; a stream with 0 keeps its state.
        """
        ...

    def hypotheses(self, state: State) -> list[list[Hypothesis]]:
        """What is found so far: for each stream, the best first."""
        ...

    def reset(self, state: State) -> State:
        """Forget what was found: frames count on, and the last symbols of the best hypothesis stay
        as the context of what follows. A greedy search goes on as if nothing had been done."""
        ...

    def stack(self, states: Sequence[State]) -> State:
        """Join states into one batch."""
        ...

    def unstack(self, state: State) -> list[State]:
        """One state of batch size 1 for each stream; the inverse of `stack`."""
        ...


def longest_first(lens: Tensor) -> tuple[Tensor, Tensor, list[int]]:
    """Order in which the streams that are still going are always the first rows of a batch.

    Args:
        lens: (N,) frames.

    Returns:
        (N,) order, (N,) its inverse, and for each frame of the longest stream the number of streams
        that have it.
    """
    order = lens.argsort(descending=True, stable=True)
    frames = torch.arange(int(lens.max()) if len(lens) else 0, device=lens.device)
    active = (lens.unsqueeze(1) > frames).sum(0).tolist()
    return order, order.argsort(), active


def first_context(head: TransducerHead, rows: int, device: torch.device) -> Tensor:
    """(rows, context_size): no tokens and then the blank, as in training and in sherpa-onnx."""
    context = torch.full((rows, head.context_size), -1, dtype=torch.int64, device=device)
    context[:, -1] = head.blank
    return context


def predict(head: TransducerHead, context: Tensor) -> Tensor:
    """(..., context_size) -> (..., J), the predictor's share of the joiner's input."""
    out = head.joiner.project_predictor(head.predictor.step(context.flatten(0, -2)))
    return out.view(*context.shape[:-1], -1)


def log_probs(logits: Tensor, blank: int, blank_penalty: float) -> Tensor:
    """(..., V) logits -> log-probabilities, in float32 at least.

    Args:
        blank_penalty: subtracted from the blank's logit; positive values trade deletions for
            insertions.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if blank_penalty:
        logits = logits.clone()
        logits[..., blank] -= blank_penalty
    return logits.log_softmax(-1)
