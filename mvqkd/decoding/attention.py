"""Searches of attention decoders over whole utterances, batched."""

from __future__ import annotations

from itertools import compress
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mvqkd.decoding.ctc_prefix_scores import CTCPrefixScores
from mvqkd.decoding.hypothesis import Hypothesis
from mvqkd.geometry import BLANK, UNK
from mvqkd.models import CTCHead
from mvqkd.models.attention_decoder import AttentionDecoder, select_rows


@torch.no_grad()
def attention_greedy_search(
    decoder: AttentionDecoder,
    encoder_out: Tensor,
    lens: Tensor,
    *,
    max_tokens_per_frame: float = 1.0,
    unk: int | None = UNK,
) -> list[list[Hypothesis]]:
    """The most probable token after those before it, until that is `<sos/eos>`.

    Args:
        decoder: in evaluation mode.
        encoder_out: (N, T, D), zero after each utterance's end.
        lens: (N,) int64, valid frames.
        max_tokens_per_frame: an utterance gets this many tokens for each of its frames (25 Hz) at
            most; one that has not ended then is unfinished.
        unk: id of `<unk>`, which is never emitted; None when the vocabulary has none.

    Returns:
        One hypothesis for each utterance; its score is its log-probability, with `<sos/eos>` if it
        has ended.
    """
    results = [[Hypothesis([], [], 0.0)] for _ in range(len(lens))]
    alive = lens.nonzero().squeeze(1)
    if not len(alive):
        return results
    limits = _limits(lens[alive], max_tokens_per_frame)
    memory = decoder.memory(encoder_out[alive], lens[alive])
    state = decoder.start(memory, 1)
    newest = torch.full_like(alive, decoder.sos_eos)
    for length in range(int(limits.max()) + 1):
        log_probs, state = _next(decoder, memory, state, newest, unk)
        values, newest = log_probs.max(-1)
        ended = newest == decoder.sos_eos
        cut = ~ended & (limits <= length)
        going = ~(ended | cut)
        for n, token, value, has_ended, is_cut in zip(
            *(x.tolist() for x in (alive, newest, values, ended, cut)), strict=True
        ):
            (hypothesis,) = results[n]
            if is_cut:
                hypothesis.finished = False
                continue
            hypothesis.score += value
            if not has_ended:
                hypothesis.tokens.append(token)
        rows = going.nonzero().squeeze(1)
        if not len(rows):
            break
        if len(rows) < len(alive):
            alive, newest, limits = alive[rows], newest[rows], limits[rows]
            memory, state = select_rows(memory, rows), select_rows(state, rows)
    return results


class _Beams(NamedTuple):
    """B hypotheses that go on of each of N utterances; slots with a score of -inf are empty."""

    memory: Any
    state: Any
    tokens: Tensor
    """(N, B, U) int64."""
    attention: Tensor
    """(N, B) float64: log-probability under the decoder."""
    scores: Tensor
    """(N, B) float64: joint with CTC, the best first."""
    ctc: CTCPrefixScores | None
    ctc_state: Any

    def select(self, utterances: Tensor) -> _Beams:
        """Those of some utterances."""
        beam = self.scores.size(1)
        rows = (utterances.unsqueeze(1) * beam + torch.arange(beam).to(utterances)).flatten()
        return _Beams(
            select_rows(self.memory, utterances),
            select_rows(self.state, rows),
            self.tokens[utterances],
            self.attention[utterances],
            self.scores[utterances],
            None if self.ctc is None else self.ctc.keep(utterances),
            None if self.ctc is None else select_rows(self.ctc_state, rows),
        )


@torch.no_grad()
def attention_beam_search(
    decoder: AttentionDecoder,
    encoder_out: Tensor,
    lens: Tensor,
    *,
    beam_size: int = 4,
    nbest: int = 1,
    length_exponent: float = 1.0,
    ctc: CTCHead | None = None,
    ctc_weight: float = 0.0,
    max_tokens_per_frame: float = 1.0,
    unk: int | None = UNK,
) -> list[list[Hypothesis]]:
    """Beam search, joint with CTC if wanted.

    A hypothesis scores (1 - w) log p_attention + w log p_ctc, for CTC of all transcripts that begin
    with it, or of itself when it has ended. At each step the B hypotheses of an utterance are
    continued with their 2 B most probable tokens and with `<sos/eos>`. Of the 2 B best results,
    those that end are kept among the B best ended ones if they are among the first B, and the B
    best of the others go on. Ended ones are ranked by score / U^a, with `<sos/eos>` in U. The
    search of an utterance ends when it has B ended hypotheses and, at their lengths of now, none
    that goes on ranks above the last of these.

    Args:
        decoder, encoder_out, lens, max_tokens_per_frame, unk: see `attention_greedy_search`.
        beam_size: B.
        nbest: hypotheses returned for each utterance, at most.
        length_exponent: a; 0: no normalization, larger: longer hypotheses.
        ctc: the head whose scores are joined in.
        ctc_weight: w, in [0, 1).

    Returns:
        For each utterance, different hypotheses, the best first, with their scores, which are not
        normalized. If none has ended, the best that was going on, unfinished.

    Raises:
        ValueError: beam_size is not positive, nbest not in 1..beam_size, or ctc_weight out of its
            range or without a head.
    """
    if beam_size < 1 or not 1 <= nbest <= beam_size:
        raise ValueError(
            f"beam_size={beam_size} must be positive and nbest={nbest} between 1 and that"
        )
    if not 0 <= ctc_weight < 1 or (ctc_weight and ctc is None):
        raise ValueError(f"ctc_weight={ctc_weight} must be 0, or below 1 with a CTC head")
    results: list[list[Hypothesis]] = [[Hypothesis([], [], 0.0)] for _ in range(len(lens))]
    alive = lens.nonzero().squeeze(1)
    if not len(alive):
        return results
    limits = _limits(lens[alive], max_tokens_per_frame)
    beams = _start(decoder, encoder_out[alive], lens[alive], beam_size, ctc if ctc_weight else None)
    ended: dict[int, list[tuple[float, Hypothesis]]] = {n: [] for n in alive.tolist()}
    for length in range(1, int(limits.max()) + 2):
        before = beams
        beams, ending, at_end = _advance(decoder, beams, ctc_weight, unk)
        stopped = (limits < length).tolist()
        normal = length**length_exponent
        best = beams.scores[:, 0].tolist()
        for row, n in enumerate(alive.tolist()):
            pool = ended[n]
            for score, slot in zip(ending[row], at_end[row], strict=True):
                tokens = before.tokens[row, slot].tolist()
                pool.append((score / normal, Hypothesis(tokens, [], score)))
            pool.sort(key=lambda ranked: -ranked[0])
            del pool[beam_size:]
            full = len(pool) == beam_size and best[row] / normal <= pool[-1][0]
            stopped[row] |= full or best[row] == -torch.inf
            if stopped[row]:
                results[n] = [hypothesis for _, hypothesis in pool[:nbest]] or [
                    Hypothesis(
                        before.tokens[row, 0].tolist(),
                        [],
                        float(before.scores[row, 0]),
                        finished=False,
                    )
                ]
        rows = torch.tensor([row for row, stop in enumerate(stopped) if not stop]).to(alive)
        if not len(rows):
            break
        if len(rows) < len(alive):
            alive, limits, beams = alive[rows], limits[rows], beams.select(rows)
    return results


def _limits(lens: Tensor, max_tokens_per_frame: float) -> Tensor:
    """(N,) most tokens of each utterance."""
    return (lens * max_tokens_per_frame).long().clamp(min=1)


def _next(
    decoder: AttentionDecoder, memory: Any, state: Any, newest: Tensor, unk: int | None
) -> tuple[Tensor, Any]:
    """(R, V) float64 log-probabilities of what follows, -inf for what is never emitted."""
    logits, state = decoder.step(memory, state, newest)
    log_probs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    log_probs = log_probs.double()
    log_probs[:, BLANK] = -torch.inf
    if unk is not None:
        log_probs[:, unk] = -torch.inf
    return log_probs, state


def _start(
    decoder: AttentionDecoder,
    encoder_out: Tensor,
    lens: Tensor,
    beam_size: int,
    ctc: CTCHead | None,
) -> _Beams:
    """One empty hypothesis for each utterance."""
    memory = decoder.memory(encoder_out, lens)
    shape = (len(lens), beam_size)
    scores = torch.full(shape, -torch.inf, dtype=torch.float64, device=lens.device)
    scores[:, 0] = 0.0
    prefixes = None
    if ctc is not None:
        logits = ctc(encoder_out)
        prefixes = CTCPrefixScores(logits.to(torch.float64).log_softmax(-1), lens)
    return _Beams(
        memory,
        decoder.start(memory, beam_size),
        torch.empty(*shape, 0, dtype=torch.int64, device=lens.device),
        scores,
        scores,
        prefixes,
        None if prefixes is None else prefixes.start(beam_size),
    )


def _advance(
    decoder: AttentionDecoder, beams: _Beams, ctc_weight: float, unk: int | None
) -> tuple[_Beams, list[list[float]], list[list[int]]]:
    """One token more.

    Returns:
        The hypotheses that go on; and for each utterance the scores and the slots of those that
        end.
    """
    num, beam = beams.scores.shape
    if beams.tokens.size(2):
        newest = beams.tokens[:, :, -1].flatten()
    else:
        newest = torch.full_like(beams.scores, decoder.sos_eos, dtype=torch.int64).flatten()
    log_probs, state = _next(decoder, beams.memory, beams.state, newest, unk)
    end = log_probs[:, decoder.sos_eos].clone()
    log_probs[:, decoder.sos_eos] = -torch.inf
    choices = min(2 * beam, decoder.vocab_size)
    values, tokens = log_probs.topk(choices)  # (N * B, C)
    attention = torch.cat([values, end.unsqueeze(1)], dim=1) + beams.attention.view(-1, 1)
    scores, ctc_state = attention, None
    if beams.ctc is not None:
        by_ctc, ctc_state = beams.ctc.extend(beams.ctc_state, tokens)
        by_ctc = torch.cat([by_ctc, beams.ctc.end(beams.ctc_state).unsqueeze(1)], dim=1)
        scores = (1 - ctc_weight) * attention + ctc_weight * by_ctc
    # (N, B * (C + 1)); the last of each C + 1 ends.
    highest, index = scores.view(num, -1).topk(2 * beam)
    slot, choice = index // (choices + 1), index % (choices + 1)
    ends = choice == choices
    ending = ends[:, :beam] & (highest[:, :beam] > -torch.inf)
    # The first B that do not end, in their order: there are as many, since each slot ends once.
    kept = ends.long().argsort(dim=1, stable=True)[:, :beam]
    slot_kept, choice_kept, highest_kept = (x.gather(1, kept) for x in (slot, choice, highest))
    rows = (slot_kept + beam * torch.arange(num, device=slot.device).unsqueeze(1)).flatten()
    choice_of_row = choice_kept.flatten()
    new_tokens = tokens[rows, choice_of_row].view(num, beam, 1)
    history = beams.tokens.flatten(0, 1)[rows].view(num, beam, -1)
    following = _Beams(
        beams.memory,
        select_rows(state, rows),
        torch.cat([history, new_tokens], dim=2),
        attention[rows, choice_of_row].view(num, beam),
        highest_kept,
        beams.ctc,
        None if ctc_state is None else select_rows(ctc_state, rows * choices + choice_of_row),
    )
    flags = ending.tolist()
    return following, _chosen(highest[:, :beam], flags), _chosen(slot[:, :beam], flags)


def _chosen(values: Tensor, flags: list[list[bool]]) -> list[list[Any]]:
    """Of each row the values whose flags are set."""
    return [list(compress(row, chosen)) for row, chosen in zip(values.tolist(), flags, strict=True)]
