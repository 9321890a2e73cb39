"""Greedy search over exported files, in NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mvqkd.decoding.hypothesis import History, Hypothesis, hypothesis
from mvqkd.export.sessions import OnnxHead
from mvqkd.geometry import UNK

_LOOK_AHEAD = 8
"""Frames of a stream whose logits are computed at once: up to the next token they are those that
would be computed one after the other."""


class OnnxGreedyState(NamedTuple):
    """N streams."""

    contexts: list[list[int]]
    """The decoder's input: context_size tokens."""
    predicted: list[NDArray[np.float32]]
    """(J,) each: its output."""
    scores: list[float]
    """Log-probability of the path."""
    offsets: list[int]
    """Encoder frames searched so far."""
    histories: list[History | None]
    """What each stream emitted."""


class OnnxGreedySearch:
    """As `mvqkd.decoding.GreedySearch` with one symbol a frame.

    Calls of onnxruntime for a few frames are so short that operations of torch between them would
    take most of the time.

    Args:
        head: decoder and joiner.
        unk: id of `<unk>`, which counts as a blank; None when the vocabulary has none.
    """

    def __init__(self, head: OnnxHead, *, unk: int | None = UNK) -> None:
        self._decoder, self._joiner = head.decoder_file, head.joiner_file
        self._silent = {head.blank, unk}
        self._first = [-1] * (head.context_size - 1) + [head.blank]

    def start(self, batch_size: int) -> OnnxGreedyState:
        """State of N new streams."""
        (predicted,) = self._predict([self._first])
        return OnnxGreedyState(
            [self._first] * batch_size,
            [predicted] * batch_size,
            [0.0] * batch_size,
            [0] * batch_size,
            [None] * batch_size,
        )

    def advance(self, state: OnnxGreedyState, encoder_out: Tensor, lens: Tensor) -> OnnxGreedyState:
        """Search the next frames: (N, T, J), (N,) valid ones."""
        frames = encoder_out.numpy()
        streams = [
            _Stream(frames[n, :end], context, predicted)
            for n, (end, context, predicted) in enumerate(
                zip(lens.tolist(), state.contexts, state.predicted, strict=True)
            )
        ]
        going = [stream for stream in streams if stream.has_frames]
        while going:
            logits = self._logits(going)
            best, begin, emitting = logits.argmax(axis=1).tolist(), 0, []
            for stream in going:
                end = begin + len(stream.next_frames)
                if stream.take(logits[begin:end], best[begin:end], self._silent):
                    emitting.append(stream)
                begin = end
            if emitting:
                rows = self._predict([stream.context for stream in emitting])
                for stream, row in zip(emitting, rows, strict=True):
                    stream.predicted = row
            going = [stream for stream in going if stream.has_frames]
        scores, histories = [], []
        for stream, score, offset, history in zip(
            streams, state.scores, state.offsets, state.histories, strict=True
        ):
            values = stream.log_probs()
            steps = [offset + step for step in stream.steps]
            probable = [values[step] for step in stream.steps]
            scores.append(score + sum(values))
            histories.append(History.extend(history, stream.tokens, steps, probable))
        return OnnxGreedyState(
            [stream.context for stream in streams],
            [stream.predicted for stream in streams],
            scores,
            [offset + stream.first for offset, stream in zip(state.offsets, streams, strict=True)],
            histories,
        )

    def _predict(self, contexts: list[list[int]]) -> NDArray[np.float32]:
        """(N, J)."""
        return self._decoder.run(np.array(contexts, np.int64))[0]

    def _logits(self, streams: list[_Stream]) -> NDArray[np.float32]:
        """(rows of the next frames of all streams, V)."""
        pairs = [
            (stream.next_frames, stream.predicted[None].repeat(len(stream.next_frames), axis=0))
            for stream in streams
        ]
        if len(pairs) == 1:
            return self._joiner.run(*pairs[0])[0]
        return self._joiner.run(*(np.concatenate(part) for part in zip(*pairs, strict=True)))[0]

    def hypotheses(self, state: OnnxGreedyState) -> list[list[Hypothesis]]:
        """One hypothesis for each stream."""
        return [
            [hypothesis(history, score)]
            for history, score in zip(state.histories, state.scores, strict=True)
        ]

    def reset(self, state: OnnxGreedyState) -> OnnxGreedyState:
        """Forget what was found, keep its last symbols as context."""
        count = len(state.scores)
        return state._replace(scores=[0.0] * count, histories=[None] * count)

    def stack(self, states: Sequence[OnnxGreedyState]) -> OnnxGreedyState:
        """Join states into one batch."""
        return OnnxGreedyState(
            *(list(chain.from_iterable(part)) for part in zip(*states, strict=True))
        )

    def unstack(self, state: OnnxGreedyState) -> list[OnnxGreedyState]:
        """One state of batch size 1 for each stream."""
        of_each: Any = zip(*state, strict=True)
        return [OnnxGreedyState(*([value] for value in parts)) for parts in of_each]


class _Stream:
    """A stream in one call of the search.

    Args:
        frames: (T, J), all of which are valid.
        context, predicted: see `OnnxGreedyState`.
    """

    def __init__(
        self, frames: NDArray[np.float32], context: list[int], predicted: NDArray[np.float32]
    ) -> None:
        self.context, self.predicted = context, predicted
        self.first = 0
        """The next frame."""
        self.tokens: list[int] = []
        self.steps: list[int] = []
        """Frame of each token."""
        self._frames = frames
        self._end = len(frames)
        self._logits: list[NDArray[np.float32]] = []  # (frames, V) each, until a token

    @property
    def has_frames(self) -> bool:
        """Whether there is one to search."""
        return self.first < self._end

    @property
    def next_frames(self) -> NDArray[np.float32]:
        """Those that are searched next."""
        return self._frames[self.first : self.first + _LOOK_AHEAD]

    def take(self, logits: NDArray[np.float32], best: list[int], silent: set[int | None]) -> bool:
        """Take the next frames until one emits a token, which `predicted` is to follow; False: none
        does."""
        for step, token in enumerate(best):
            if token not in silent:
                self.tokens.append(token)
                self.steps.append(self.first + step)
                self.context = [*self.context[1:], token]
                self._logits.append(logits[: step + 1])
                self.first += step + 1
                return True
        self._logits.append(logits)
        self.first += len(best)
        return False

    def log_probs(self) -> list[float]:
        """Of the best symbol of each frame."""
        if not self._logits:
            return []
        logits = np.concatenate(self._logits)
        logits -= logits.max(axis=1, keepdims=True)
        values: list[float] = np.log(np.exp(logits, out=logits).sum(axis=1)).tolist()
        return [-value for value in values]
