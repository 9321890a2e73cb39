"""Prefix beam search of a CTC head: N-best transcripts, each with the sum over its alignments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mvqkd.decoding.hypothesis import Hypothesis
from mvqkd.decoding.search import log_probs
from mvqkd.geometry import UNK
from mvqkd.models import CTCHead

_IMPOSSIBLE = -math.inf


class Prefix(NamedTuple):
    """A transcript so far."""

    tokens: tuple[int, ...]
    frames: tuple[int, ...]
    """The frame of each token in the alignment that contributed most when it was added."""
    blank: float
    """Log-probability of its alignments that end in a blank."""
    token: float
    """Of those that end in its last token."""

    @property
    def score(self) -> float:
        """Log-probability of all its alignments."""
        return _add(self.blank, self.token)


Beam = tuple[Prefix, ...]
"""The best first."""

EMPTY: Beam = (Prefix((), (), 0.0, _IMPOSSIBLE),)
"""Before the first frame."""


def extend_beam(
    beam: Beam,
    frames: Tensor,
    *,
    beam_size: int,
    blank: int,
    offset: int = 0,
    unk: int | None = None,
    min_log_prob: float = _IMPOSSIBLE,
) -> Beam:
    """Search further frames (Graves and Jaitly 2014, section 2.4; Hannun et al. 2014, arXiv
    1408.2873, algorithm 1 without a language model).

    Args:
        beam: of the frames before.
        frames: (T, V) log-probabilities.
        beam_size: transcripts kept after each frame.
        blank: id of the blank.
        offset: number of the first of these frames.
        unk: id that counts as a blank; None: there is none.
        min_log_prob: tokens below it are not considered at a frame; repetitions of a last token
            are.
    """
    scores = frames.double().cpu()
    blanks = scores[:, blank]
    if unk is not None:
        blanks = torch.logaddexp(blanks, scores[:, unk])
    candidates = scores >= min_log_prob
    candidates[:, [blank] if unk is None else [blank, unk]] = False
    for t, (row, of_blank, allowed) in enumerate(
        zip(scores.tolist(), blanks.tolist(), candidates, strict=True)
    ):
        grown = _Grown()
        tokens = allowed.nonzero().squeeze(1).tolist()
        for prefix in beam:
            last = prefix.tokens[-1] if prefix.tokens else None
            total = prefix.score
            grown.add(prefix.tokens, prefix.frames, blank=total + of_blank)
            if last is not None:
                grown.add(prefix.tokens, prefix.frames, token=prefix.token + row[last])
            for token in tokens:
                before = prefix.blank if token == last else total
                if before > _IMPOSSIBLE:
                    grown.add(
                        (*prefix.tokens, token),
                        (*prefix.frames, offset + t),
                        token=before + row[token],
                    )
        beam = grown.best(beam_size)
    return beam


class _Grown:
    """Transcripts after one more frame."""

    def __init__(self) -> None:
        self._found: dict[tuple[int, ...], list[float]] = {}  # blank, token, largest contribution
        self._frames: dict[tuple[int, ...], tuple[int, ...]] = {}

    def add(
        self,
        tokens: tuple[int, ...],
        frames: tuple[int, ...],
        *,
        blank: float = _IMPOSSIBLE,
        token: float = _IMPOSSIBLE,
    ) -> None:
        """Add the log-probability of some alignments."""
        sums = self._found.setdefault(tokens, [_IMPOSSIBLE] * 3)
        sums[0], sums[1] = _add(sums[0], blank), _add(sums[1], token)
        if max(blank, token) > sums[2] or tokens not in self._frames:
            sums[2] = max(blank, token)
            self._frames[tokens] = frames

    def best(self, count: int) -> Beam:
        found = [
            Prefix(tokens, self._frames[tokens], blank, token)
            for tokens, (blank, token, _) in self._found.items()
        ]
        # Ties in the order of the tokens, so that no order of dictionaries shows.
        found.sort(key=lambda prefix: (-prefix.score, prefix.tokens))
        return tuple(found[:count])


def _add(a: float, b: float) -> float:
    """log(exp(a) + exp(b))."""
    if a < b:
        a, b = b, a
    return a if b == _IMPOSSIBLE else a + math.log1p(math.exp(b - a))


class CTCPrefixState(NamedTuple):
    """N streams."""

    beams: list[Beam]
    offsets: list[int]
    """Encoder frames searched so far."""
    hidden: list[int]
    """Leading tokens of a stream's transcripts that are of what was found before `reset`."""


class CTCPrefixSearch:
    """Prefix beam search of a CTC head; a `mvqkd.decoding.search.Search`.

    Args:
        head: the CTC head.
        beam_size: transcripts kept after each frame.
        nbest: hypotheses returned for each stream, at most.
        blank_penalty: subtracted from the blank's logit.
        unk: id of `<unk>`, which counts as a blank; None when the vocabulary has none.
        min_log_prob: see `extend_beam`.

    Raises:
        ValueError: beam_size is not positive, or nbest not in 1..beam_size.
    """

    def __init__(
        self,
        head: CTCHead,
        *,
        beam_size: int = 4,
        nbest: int = 1,
        blank_penalty: float = 0.0,
        unk: int | None = UNK,
        min_log_prob: float = -10.0,
    ) -> None:
        if not 1 <= nbest <= beam_size:
            raise ValueError(f"nbest={nbest} must be between 1 and beam_size={beam_size}")
        self.head = head
        self.beam_size = beam_size
        self.nbest = nbest
        self.blank_penalty = blank_penalty
        self.unk = unk
        self.min_log_prob = min_log_prob

    def start(self, batch_size: int) -> CTCPrefixState:
        """State of N new streams."""
        return CTCPrefixState([EMPTY] * batch_size, [0] * batch_size, [0] * batch_size)

    @torch.no_grad()
    def advance(self, state: CTCPrefixState, encoder_out: Tensor, lens: Tensor) -> CTCPrefixState:
        """Search the next frames: (N, T, D), (N,) valid ones."""
        rows = log_probs(self.head(encoder_out), self.head.blank, self.blank_penalty).cpu()
        counts = lens.tolist()
        beams = [
            extend_beam(
                beam,
                row[:count],
                beam_size=self.beam_size,
                blank=self.head.blank,
                offset=offset,
                unk=self.unk,
                min_log_prob=self.min_log_prob,
            )
            for beam, offset, row, count in zip(
                state.beams, state.offsets, rows, counts, strict=True
            )
        ]
        offsets = [offset + count for offset, count in zip(state.offsets, counts, strict=True)]
        return CTCPrefixState(beams, offsets, state.hidden)

    def hypotheses(self, state: CTCPrefixState) -> list[list[Hypothesis]]:
        """Up to `nbest` hypotheses for each stream, the most probable first."""
        return [
            [
                Hypothesis(list(prefix.tokens[hidden:]), list(prefix.frames[hidden:]), prefix.score)
                for prefix in beam[: self.nbest]
            ]
            for beam, hidden in zip(state.beams, state.hidden, strict=True)
        ]

    def reset(self, state: CTCPrefixState) -> CTCPrefixState:
        """Forget what was found; the best transcript's last token is not emitted again if it goes
        on."""
        best = [beam[0] for beam in state.beams]
        beams: list[Beam] = [
            (
                Prefix(
                    prefix.tokens[-1:],
                    prefix.frames[-1:],
                    prefix.blank - prefix.score,
                    prefix.token - prefix.score,
                ),
            )
            for prefix in best
        ]
        return CTCPrefixState(beams, state.offsets, [len(beam[0].tokens) for beam in beams])

    def stack(self, states: Sequence[CTCPrefixState]) -> CTCPrefixState:
        """Join states into one batch."""
        return CTCPrefixState(
            [beam for state in states for beam in state.beams],
            [offset for state in states for offset in state.offsets],
            [hidden for state in states for hidden in state.hidden],
        )

    def unstack(self, state: CTCPrefixState) -> list[CTCPrefixState]:
        """One state of batch size 1 for each stream."""
        return [
            CTCPrefixState([beam], [offset], [hidden])
            for beam, offset, hidden in zip(state.beams, state.offsets, state.hidden, strict=True)
        ]
