"""Greedy, modified beam and CTC search against slow ones and against sums over all alignments."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mvqkd.decoding import (
    CTCGreedySearch,
    GreedySearch,
    Hypothesis,
    ModifiedBeamSearch,
    greedy_search,
    modified_beam_search,
)
from mvqkd.models import AsrModel, CTCHead, TransducerHead

Make = Callable[..., AsrModel]


def frame_log_probs(
    head: TransducerHead, frame: Tensor, tokens: tuple[int, ...], blank_penalty: float = 0.0
) -> Tensor:
    """(V,) log-probabilities at one encoder frame (D,) after some tokens: no batches, no caches."""
    context = [*[-1] * (head.context_size - 1), 0, *tokens][-head.context_size :]
    predicted = head.joiner.project_predictor(head.predictor.step(torch.tensor([context])))
    logits = head.joiner(head.joiner.project_encoder(frame[None]), predicted)[0].detach()
    logits[0] -= blank_penalty
    return logits.log_softmax(0)


def slow_greedy(
    head: TransducerHead, frames: Tensor, max_symbols: int, unk: int | None, penalty: float
) -> Hypothesis:
    found = Hypothesis([], [], 0.0)
    for t, frame in enumerate(frames):
        for _ in range(max_symbols):
            values = frame_log_probs(head, frame, tuple(found.tokens), penalty)
            best = int(values.argmax())
            found.score += float(values[best])
            if best in (0, unk):
                break
            found.tokens.append(best)
            found.frames.append(t)
    return found


def slow_beam(
    head: TransducerHead, frames: Tensor, beam: int, unk: int | None, penalty: float
) -> list[tuple[tuple[int, ...], tuple[int, ...], float]]:
    """(tokens, frames, score) for each hypothesis left at the end; dictionaries and loops."""
    alive: dict[tuple[int, ...], tuple[tuple[int, ...], float]] = {(): ((), 0.0)}
    for t, frame in enumerate(frames):
        continued = []
        for tokens, (times, score) in alive.items():
            values = frame_log_probs(head, frame, tokens, penalty)
            continued += [(score + float(v), tokens, times, i) for i, v in enumerate(values)]
        continued.sort(key=lambda item: -item[0])
        alive = {}
        for score, tokens, times, symbol in continued[:beam]:
            if symbol not in (0, unk):
                tokens, times = (*tokens, symbol), (*times, t)
            if tokens in alive:
                first_times, other = alive[tokens]
                alive[tokens] = (first_times, math.log(math.exp(other) + math.exp(score)))
            else:
                alive[tokens] = (times, score)
    return [(tokens, times, score) for tokens, (times, score) in alive.items()]


def totals(head: TransducerHead, frames: Tensor) -> dict[tuple[int, ...], float]:
    """log of the sum over all alignments with one symbol per frame, for every transcript."""
    sums: dict[tuple[int, ...], float] = {}
    for alignment in itertools.product(range(head.vocab_size), repeat=len(frames)):
        tokens: tuple[int, ...] = ()
        score = 0.0
        for frame, symbol in zip(frames, alignment, strict=True):
            score += float(frame_log_probs(head, frame, tokens)[symbol])
            if symbol:
                tokens = (*tokens, symbol)
        sums[tokens] = sums.get(tokens, 0.0) + math.exp(score)
    return {tokens: math.log(total) for tokens, total in sums.items()}


def random_frames(lens: list[int], dim: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randn(len(lens), max(lens), dim, generator=generator, dtype=torch.float64)
    return frames, torch.tensor(lens)


@pytest.mark.parametrize("max_symbols", [1, 3])
@pytest.mark.parametrize("context_size", [1, 2, 3])
def test_greedy_search_is_the_slow_one(
    make_transducer: Make, max_symbols: int, context_size: int
) -> None:
    head = make_transducer(vocab_size=7, context_size=context_size).transducer
    lens = [12, 30, 0, 1, 30]
    frames, tensor_lens = random_frames(lens, 16)
    for penalty, unk in ((0.0, 2), (2.0, None)):
        found = greedy_search(
            head,
            frames,
            tensor_lens,
            max_symbols_per_frame=max_symbols,
            blank_penalty=penalty,
            unk=unk,
        )
        for n, length in enumerate(lens):
            slow = slow_greedy(head, frames[n, :length], max_symbols, unk, penalty)
            assert found[n].tokens == slow.tokens
            assert found[n].frames == slow.frames
            assert found[n].score == pytest.approx(slow.score, abs=1e-9)
        assert len(found[1].tokens) > 5
        if unk is not None:
            assert all(unk not in hypothesis.tokens for hypothesis in found)


def test_more_symbols_per_frame_are_used(make_transducer: Make) -> None:
    head = make_transducer(vocab_size=7).transducer
    frames, lens = random_frames([40], 16)
    found = greedy_search(head, frames, lens, max_symbols_per_frame=3)[0]
    assert len(set(found.frames)) < len(found.frames)
    assert max(found.frames.count(frame) for frame in found.frames) <= 3


@pytest.mark.parametrize("beam", [1, 2, 4, 9])
def test_beam_search_is_the_slow_one(make_transducer: Make, beam: int) -> None:
    head = make_transducer(vocab_size=6).transducer
    lens = [9, 25, 0, 25, 1]
    frames, tensor_lens = random_frames(lens, 16)
    for penalty, unk in ((0.0, 2), (1.0, None)):
        found = modified_beam_search(
            head,
            frames,
            tensor_lens,
            beam_size=beam,
            nbest=beam,
            blank_penalty=penalty,
            unk=unk,
        )
        for n, length in enumerate(lens):
            slow = slow_beam(head, frames[n, :length], beam, unk, penalty)
            slow.sort(key=lambda item: -item[2] / (len(item[0]) + head.context_size))
            assert [tuple(h.tokens) for h in found[n]] == [item[0] for item in slow]
            assert [tuple(h.frames) for h in found[n]] == [item[1] for item in slow]
            assert [h.score for h in found[n]] == pytest.approx([i[2] for i in slow], abs=1e-9)


def test_a_wide_beam_sums_over_all_alignments(make_transducer: Make) -> None:
    head = make_transducer(vocab_size=3).transducer
    frames, lens = random_frames([5], 16)
    truth = totals(head, frames[0])
    found = modified_beam_search(
        head, frames, lens, beam_size=3**5, nbest=3**5, normalize=False, unk=None
    )[0]
    assert len(found) == len(truth)
    assert found[0].tokens == list(max(truth, key=lambda tokens: truth[tokens]))
    for hypothesis in found:
        assert hypothesis.score == pytest.approx(truth[tuple(hypothesis.tokens)], abs=1e-9)
    assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)
    assert math.fsum(math.exp(h.score) for h in found) == pytest.approx(1.0)


def test_normalization_ranks_by_score_per_token(make_transducer: Make) -> None:
    head = make_transducer(vocab_size=6).transducer
    frames, lens = random_frames([20], 16)
    settings = dict(beam_size=8, nbest=8)
    plain = modified_beam_search(head, frames, lens, normalize=False, **settings)[0]
    ranked = modified_beam_search(head, frames, lens, normalize=True, **settings)[0]
    expected = sorted(plain, key=lambda h: -h.score / (len(h.tokens) + head.context_size))
    assert ranked == expected
    assert ranked != plain


def test_a_beam_of_one_is_greedy_search(make_transducer: Make) -> None:
    head = make_transducer(vocab_size=7).transducer
    frames, lens = random_frames([40, 33, 5], 16)
    greedy = greedy_search(head, frames, lens)
    beam = modified_beam_search(head, frames, lens, beam_size=1)
    for one, (other,) in zip(greedy, beam, strict=True):
        assert (one.tokens, one.frames) == (other.tokens, other.frames)
        assert one.score == pytest.approx(other.score)


def slow_ctc(head: CTCHead, frames: Tensor) -> Hypothesis:
    found, last = Hypothesis([], [], 0.0), 0
    for t, values in enumerate(head(frames).log_softmax(-1).tolist()):
        best = values.index(max(values))
        found.score += max(values)
        if best not in (0, 2, last):
            found.tokens.append(best)
            found.frames.append(t)
        last = best
    return found


def test_ctc_search_is_the_slow_one(make_transducer: Make) -> None:
    head = make_transducer(vocab_size=5).ctc
    lens = [30, 0, 12]
    frames, tensor_lens = random_frames(lens, 16)
    search = CTCGreedySearch(head)
    state = search.advance(search.start(3), frames, tensor_lens)
    repeated = False
    for n, (found,) in enumerate(search.hypotheses(state)):
        slow = slow_ctc(head, frames[n, : lens[n]])
        assert (found.tokens, found.frames) == (slow.tokens, slow.frames)
        assert found.score == pytest.approx(slow.score)
        repeated |= any(a == b for a, b in itertools.pairwise(found.tokens))
    assert repeated  # a token, a blank, the token again: both count


SEARCHES = [
    lambda model: GreedySearch(model.transducer),
    lambda model: GreedySearch(model.transducer, max_symbols_per_frame=2),
    lambda model: ModifiedBeamSearch(model.transducer, beam_size=4, nbest=4),
    lambda model: CTCGreedySearch(model.ctc),
]


@pytest.mark.parametrize("make_search", SEARCHES)
def test_chunks_of_any_sizes_and_ages_are_the_whole(
    make_transducer: Make, make_search: Callable
) -> None:
    """Streams that start at different times and advance by different steps, in one batch."""
    model = make_transducer(vocab_size=6)
    lens = [21, 34, 8]
    frames, tensor_lens = random_frames(lens, 16)
    search = make_search(model)
    whole = search.hypotheses(search.advance(search.start(3), frames, tensor_lens))

    states = [search.start(1) for _ in lens]
    done = [0, 0, 0]
    generator = torch.Generator().manual_seed(3)
    while done != lens:
        chosen = [n for n in range(3) if torch.rand((), generator=generator) < 0.6]
        if not chosen:
            continue
        steps = [
            min(int(torch.randint(0, 6, (), generator=generator)), lens[n] - done[n])
            for n in chosen
        ]
        chunk = torch.zeros(len(chosen), 6, 16, dtype=torch.float64)
        for row, (n, step) in enumerate(zip(chosen, steps, strict=True)):
            chunk[row, :step] = frames[n, done[n] : done[n] + step]
            done[n] += step
        batch = search.stack([states[n] for n in chosen])
        before = search.hypotheses(batch)
        advanced = search.unstack(search.advance(batch, chunk, torch.tensor(steps)))
        assert search.hypotheses(batch) == before  # states are not changed in place
        for n, state in zip(chosen, advanced, strict=True):
            states[n] = state
    pieces = search.hypotheses(search.stack(states))
    for one, other in zip(whole, pieces, strict=True):
        assert [h.tokens for h in one] == [h.tokens for h in other]
        assert [h.frames for h in one] == [h.frames for h in other]
        assert [h.score for h in one] == pytest.approx([h.score for h in other])


@pytest.mark.parametrize("make_search", SEARCHES)
def test_a_long_stream_in_float32_is_that_in_float64(
    make_transducer: Make, make_search: Callable
) -> None:
    """Sums of log-probabilities grow with a stream: in float32 their differences get lost."""
    model = make_transducer(vocab_size=60)
    with torch.no_grad():
        model.transducer.joiner.output.weight /= 8.0  # nearly equal probabilities
    frames, _ = random_frames([2400], 16)
    found = []
    for dtype in (torch.float64, torch.float32):
        search = make_search(model.to(dtype))
        state = search.start(1)
        for chunk in frames.to(dtype).split(16, dim=1):
            state = search.advance(state, chunk, torch.tensor([chunk.shape[1]]))
        found.append(search.hypotheses(state)[0])
    for one, other in zip(*found, strict=True):
        assert (one.tokens, one.frames) == (other.tokens, other.frames)
        assert one.score < -3000
        # The errors of single frames add up, about 1e-7 each.
        assert one.score == pytest.approx(other.score, abs=5e-5)


def test_the_age_of_a_stream_does_not_change_its_beam(make_transducer: Make) -> None:
    """Some hours later: the same hypotheses, with scores that include what was before."""
    head = make_transducer(vocab_size=6).float().transducer
    search = ModifiedBeamSearch(head, nbest=4, normalize=False)
    frames, lens = random_frames([40], 16)
    frames = frames.float()
    young = search.advance(search.start(1), frames, lens)
    old = search.advance(search.start(1)._replace(best=torch.tensor([-3e6]).double()), frames, lens)
    for one, other in zip(search.hypotheses(young)[0], search.hypotheses(old)[0], strict=True):
        assert (one.tokens, one.frames) == (other.tokens, other.frames)
        assert other.score == pytest.approx(one.score - 3e6, abs=1e-8)
    assert young.scores.max() == 0


@pytest.mark.parametrize("make_search", SEARCHES)
def test_padding_and_company_change_nothing(make_transducer: Make, make_search: Callable) -> None:
    model = make_transducer(vocab_size=6)
    lens = [15, 26, 3]
    frames, tensor_lens = random_frames(lens, 16)
    search = make_search(model)
    together = search.hypotheses(search.advance(search.start(3), frames, tensor_lens))
    for n, length in enumerate(lens):
        alone = search.advance(search.start(1), frames[n : n + 1, :length], tensor_lens[n : n + 1])
        for one, other in zip(search.hypotheses(alone)[0], together[n], strict=True):
            assert (one.tokens, one.frames) == (other.tokens, other.frames)


def test_bad_settings_are_refused(make_transducer: Make) -> None:
    head = make_transducer(vocab_size=6).transducer
    with pytest.raises(ValueError, match="max_symbols_per_frame"):
        GreedySearch(head, max_symbols_per_frame=0)
    with pytest.raises(ValueError, match="beam_size"):
        ModifiedBeamSearch(head, beam_size=0)
    with pytest.raises(ValueError, match="nbest"):
        ModifiedBeamSearch(head, beam_size=2, nbest=3)
