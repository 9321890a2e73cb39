"""Searches that need whole utterances, behind the interface of those that do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mvqkd.decoding.hypothesis import Hypothesis

Frames = tuple[Tensor, ...]
"""Of a stream: encoder frames (T, D) of each chunk."""


class WholeUtteranceSearch:
    """A `Search` that collects encoder frames and begins anew whenever it is asked for hypotheses.

    So a stream's intermediate results are those of an utterance that ends now, and each costs as
    much as the last.

    Args:
        find: (N, T, D) frames, zero after each utterance's end, and (N,) lens -> hypotheses of each
            utterance, the best first.
        like: a tensor of the frames' device and type.
        dim: D.
    """

    def __init__(
        self, find: Callable[[Tensor, Tensor], list[list[Hypothesis]]], *, like: Tensor, dim: int
    ) -> None:
        self._find = find
        self._like = like
        self._dim = dim

    def start(self, batch_size: int) -> list[Frames]:
        """State of N new streams."""
        return [()] * batch_size

    def advance(self, state: list[Frames], encoder_out: Tensor, lens: Tensor) -> list[Frames]:
        """Add frames: (N, T, D), (N,) valid ones."""
        return [
            (*frames, new[:length]) if length else frames
            for frames, new, length in zip(state, encoder_out, lens.tolist(), strict=True)
        ]

    def hypotheses(self, state: list[Frames]) -> list[list[Hypothesis]]:
        """Search all frames."""
        empty = self._like.new_zeros(0, self._dim)
        utterances = [torch.cat([empty.to(x[0]), *x]) if x else empty for x in state]
        lens = torch.tensor([len(x) for x in utterances], device=self._like.device)
        return self._find(pad_sequence(utterances, batch_first=True), lens)

    def reset(self, state: list[Frames]) -> list[Frames]:
        """Forget all frames."""
        return self.start(len(state))

    def stack(self, states: Sequence[list[Frames]]) -> list[Frames]:
        """Join states into one batch."""
        return [frames for state in states for frames in state]

    def unstack(self, state: list[Frames]) -> list[list[Frames]]:
        """One state of batch size 1 for each stream."""
        return [[frames] for frames in state]
