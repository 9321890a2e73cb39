"""Modified beam search of a transducer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mvqkd.decoding.hypothesis import History, Hypothesis, hypothesis
from mvqkd.decoding.search import first_context, log_probs, longest_first, predict
from mvqkd.geometry import UNK
from mvqkd.models import TransducerHead


class BeamState(NamedTuple):
    """N streams with K slots each; a slot with score -inf is empty."""

    context: Tensor
    """(N, K, context_size) int64: the predictor's input."""
    scores: Tensor
    """(N, K): log-probability, summed over the alignments that were merged, above that of the best
    slot."""
    best: Tensor
    """(N,) float64: the log-probability of the best slot. Apart from `scores`, which would lose
    their resolution in a stream of hours."""
    digests: Tensor
    """(N, K) int64: a hash of all tokens, equal for equal hypotheses."""
    offsets: list[int]
    """Encoder frames searched so far."""
    histories: list[list[History | None]]
    """What each slot emitted."""


class ModifiedBeamSearch:
    """Beam search with at most one symbol per frame, batched (icefall's `modified_beam_search`).

    At each frame the K best of all K * V continuations are kept, then those with the same tokens
    are merged: their probabilities are added, and the token times of the most probable stay.
    `<unk>` counts as a blank, as in sherpa-onnx.

    Args:
        head: the transducer.
        beam_size: K.
        nbest: hypotheses returned for each stream, at most.
        normalize: rank by score / (U + context_size), as icefall and sherpa-onnx do, instead of by
            score.
        blank_penalty: subtracted from the blank's logit.
        unk: id of `<unk>`; None when the vocabulary has none.

    Raises:
        ValueError: beam_size is not positive, or nbest not in 1..beam_size.
    """

    def __init__(
        self,
        head: TransducerHead,
        *,
        beam_size: int = 4,
        nbest: int = 1,
        normalize: bool = True,
        blank_penalty: float = 0.0,
        unk: int | None = UNK,
    ) -> None:
        if beam_size < 1:
            raise ValueError(f"beam_size={beam_size} must be positive")
        if not 1 <= nbest <= beam_size:
            raise ValueError(f"nbest={nbest} must be between 1 and beam_size={beam_size}")
        self.head = head
        self.beam_size = beam_size
        self.nbest = nbest
        self.normalize = normalize
        self.blank_penalty = blank_penalty
        self.unk = unk

    def start(self, batch_size: int) -> BeamState:
        """State of N new streams: one empty hypothesis each."""
        weight = self.head.joiner.output.weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        shape = (batch_size, self.beam_size)
        scores = torch.full(shape, -torch.inf, dtype=dtype, device=weight.device)
        scores[:, 0] = 0.0
        context = first_context(self.head, batch_size * self.beam_size, weight.device)
        return BeamState(
            context.view(*shape, -1),
            scores,
            torch.zeros(batch_size, dtype=torch.float64, device=weight.device),
            torch.zeros(shape, dtype=torch.int64, device=weight.device),
            [0] * batch_size,
            [[None] * self.beam_size for _ in range(batch_size)],
        )

    @torch.no_grad()
    def advance(self, state: BeamState, encoder_out: Tensor, lens: Tensor) -> BeamState:
        """Search the next frames: (N, T, D), (N,) valid ones."""
        head, beam = self.head, self.beam_size
        order, inverse, active = longest_first(lens)
        frames = head.joiner.project_encoder(encoder_out)[order].unsqueeze(2)
        context, scores, best, digests = (
            part[order] for part in (state.context, state.scores, state.best, state.digests)
        )
        predicted = predict(head, context)
        shape = (len(active), len(order), beam)
        # Where each slot came from and what it emitted, frame by frame; streams that have ended
        # keep the values below.
        origins = torch.arange(beam, device=scores.device).repeat(*shape[:2], 1)
        emitted = torch.full(shape, head.blank, device=scores.device)
        probable = torch.zeros(shape, dtype=torch.float32, device=scores.device)
        for t, n in enumerate(active):
            logits = head.joiner(frames[:n, t], predicted[:n])
            values = log_probs(logits, head.blank, self.blank_penalty)
            continued = (values + scores[:n].unsqueeze(2)).flatten(1)
            kept = min(beam, continued.size(1))
            highest, index = continued.topk(kept)
            if kept < beam:  # a vocabulary smaller than the beam
                highest = torch.nn.functional.pad(highest, (0, beam - kept), value=-torch.inf)
                index = torch.nn.functional.pad(index, (0, beam - kept))
            origin, token = index // head.vocab_size, index % head.vocab_size
            emits = token != head.blank
            if self.unk is not None:
                emits &= token != self.unk
            digest = digests[:n].gather(1, origin)
            digests[:n] = torch.where(emits, _mix(digest, token), digest)
            merged = _merge(highest, digests[:n])
            gained = merged.amax(1)  # at each frame: so the division into chunks changes nothing
            scores[:n] = merged - gained.unsqueeze(1)
            best[:n] += gained
            origins[t, :n] = origin
            emitted[t, :n] = token.where(emits, head.blank)
            probable[t, :n] = values.flatten(1).gather(1, index).float()
            context[:n] = _pick(context[:n], origin)
            predicted[:n] = _pick(predicted[:n], origin)
            rows = emits.nonzero(as_tuple=True)
            if len(rows[0]):
                newest = token[rows].unsqueeze(1)
                context[rows] = torch.cat([context[rows][:, 1:], newest], dim=1)
                predicted[rows] = predict(head, context[rows])
        return BeamState(
            context[inverse],
            scores[inverse],
            best[inverse],
            digests[inverse],
            [offset + num for offset, num in zip(state.offsets, lens.tolist(), strict=True)],
            self._extend(state, *(x[:, inverse].cpu() for x in (origins, emitted, probable))),
        )

    def hypotheses(self, state: BeamState) -> list[list[Hypothesis]]:
        """Up to `nbest` hypotheses for each stream, all different, the best first."""
        results = []
        scores = state.scores + state.best.unsqueeze(1)
        for histories, of_stream in zip(state.histories, scores.tolist(), strict=True):
            found = [
                hypothesis(history, score)
                for history, score in zip(histories, of_stream, strict=True)
                if score > -torch.inf
            ]
            found.sort(key=self._rank, reverse=True)
            results.append(found[: self.nbest])
        return results

    def reset(self, state: BeamState) -> BeamState:
        """Forget what was found; one slot stays, with the last symbols of the best hypothesis."""
        fresh = self.start(len(state.offsets))
        scores = (state.scores + state.best.unsqueeze(1)).tolist()
        best = []
        for histories, of_stream in zip(state.histories, scores, strict=True):
            found = [hypothesis(*slot) for slot in zip(histories, of_stream, strict=True)]
            ranks = [self._rank(h) if h.score > -torch.inf else -torch.inf for h in found]
            best.append(ranks.index(max(ranks)))
        context = state.context[torch.arange(len(best)), torch.tensor(best)]
        return fresh._replace(
            context=context.unsqueeze(1).expand_as(fresh.context).clone(), offsets=state.offsets
        )

    def stack(self, states: Sequence[BeamState]) -> BeamState:
        """Join states into one batch."""
        return BeamState(
            torch.cat([state.context for state in states]),
            torch.cat([state.scores for state in states]),
            torch.cat([state.best for state in states]),
            torch.cat([state.digests for state in states]),
            [offset for state in states for offset in state.offsets],
            [histories for state in states for histories in state.histories],
        )

    def unstack(self, state: BeamState) -> list[BeamState]:
        """One state of batch size 1 for each stream."""
        return [
            BeamState(context, scores, best, digests, [offset], [histories])
            for context, scores, best, digests, offset, histories in zip(
                state.context.split(1),
                state.scores.split(1),
                state.best.split(1),
                state.digests.split(1),
                state.offsets,
                state.histories,
                strict=True,
            )
        ]

    def _rank(self, hypothesis: Hypothesis) -> float:
        if not self.normalize:
            return hypothesis.score
        return hypothesis.score / (len(hypothesis.tokens) + self.head.context_size)

    def _extend(
        self, state: BeamState, origins: Tensor, emitted: Tensor, probable: Tensor
    ) -> list[list[History | None]]:
        """Trace (T, N, K) back from the last frame and append what each slot emitted, and its
        log-probability."""
        num_frames, batch_size, beam = origins.shape
        slot = torch.arange(beam).expand(batch_size, beam)
        symbols, values = torch.empty_like(emitted), torch.empty_like(probable)
        for t in range(num_frames - 1, -1, -1):
            symbols[t] = emitted[t].gather(1, slot)
            values[t] = probable[t].gather(1, slot)
            slot = origins[t].gather(1, slot)
        histories = []
        for n, offset in enumerate(state.offsets):
            slots = []
            for k, before in enumerate(slot[n].tolist()):
                times = (symbols[:, n, k] != self.head.blank).nonzero().squeeze(1)
                found = (symbols[times, n, k], times + offset, values[times, n, k])
                history = state.histories[n][before]
                slots.append(History.extend(history, *(part.tolist() for part in found)))
            histories.append(slots)
        return histories


def modified_beam_search(
    head: TransducerHead,
    encoder_out: Tensor,
    lens: Tensor,
    *,
    beam_size: int = 4,
    nbest: int = 1,
    normalize: bool = True,
    blank_penalty: float = 0.0,
    unk: int | None = UNK,
) -> list[list[Hypothesis]]:
    """Modified beam search of whole utterances.

    Args:
        head: the transducer.
        encoder_out: (N, T, D), output of its encoder.
        lens: (N,) int64, valid frames.
        beam_size: hypotheses kept at each frame.
        nbest: hypotheses returned for each utterance, at most.
        normalize: rank by score / (U + context_size), as icefall and sherpa-onnx do.
        blank_penalty: subtracted from the blank's logit.
        unk: id of `<unk>`, which counts as a blank; None when the vocabulary has none.

    Returns:
        For each utterance, different hypotheses, the best first; scores are not normalized.
    """
    search = ModifiedBeamSearch(
        head,
        beam_size=beam_size,
        nbest=nbest,
        normalize=normalize,
        blank_penalty=blank_penalty,
        unk=unk,
    )
    return search.hypotheses(search.advance(search.start(len(lens)), encoder_out, lens))


def _pick(x: Tensor, origin: Tensor) -> Tensor:
    """x[n, origin[n, k]] for (N, K, D) and (N, K)."""
    return x.gather(1, origin.unsqueeze(2).expand(-1, -1, x.size(2)))


def _mix(digest: Tensor, token: Tensor) -> Tensor:
    """Hash of a hypothesis and one more token. With 64 bits, two different hypotheses of one beam
    have the same hash about once in 10^18 comparisons."""
    mixed = (digest ^ (token + 1)) * -7046029254386353131  # 2^64 / golden ratio, odd
    return mixed ^ (mixed >> 29)


def _merge(scores: Tensor, digests: Tensor) -> Tensor:
    """Add up the probabilities of equal hypotheses in the first of them and empty the others.

    Args:
        scores: (N, K), descending; -inf for empty slots.
        digests: (N, K).
    """
    same = digests.unsqueeze(2) == digests.unsqueeze(1)
    total = scores.unsqueeze(1).where(same, -torch.inf).logsumexp(2)
    repeated = same.tril(-1).any(2)
    return total.masked_fill(repeated, -torch.inf)
