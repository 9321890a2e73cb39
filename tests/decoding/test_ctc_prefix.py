"""Prefix beam search against the sum over all alignments."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict

import pytest
import torch

from mvqkd.decoding import CTCPrefixSearch, build_search
from mvqkd.decoding.ctc_prefix import EMPTY, extend_beam
from mvqkd.losses import ctc_loss
from tests.decoding.conftest import make_model


def random_log_probs(frames: int, vocab: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(frames, vocab, generator=generator, dtype=torch.float64)
    return logits.log_softmax(-1)


def all_texts(log_probs: torch.Tensor) -> dict[tuple[int, ...], float]:
    """Log-probability of every text, from every alignment; blank 0."""
    sums: dict[tuple[int, ...], list[float]] = defaultdict(list)
    frames, vocab = log_probs.shape
    for path in itertools.product(range(vocab), repeat=frames):
        merged = [symbol for symbol, _ in itertools.groupby(path)]
        score = sum(float(log_probs[t, symbol]) for t, symbol in enumerate(path))
        sums[tuple(symbol for symbol in merged if symbol)].append(score)
    return {
        text: float(torch.tensor(scores, dtype=torch.float64).logsumexp(0))
        for text, scores in sums.items()
    }


@pytest.mark.parametrize("seed", range(3))
def test_a_beam_of_everything_finds_every_text_with_all_of_its_alignments(seed: int) -> None:
    log_probs = random_log_probs(5, 3, seed)
    expected = all_texts(log_probs)
    beam = extend_beam(EMPTY, log_probs, beam_size=1000, blank=0)
    found = {prefix.tokens: prefix.score for prefix in beam}
    for text, score in expected.items():
        assert found.pop(text) == pytest.approx(score, abs=1e-10)
    assert all(score == -math.inf for score in found.values())
    assert [prefix.score for prefix in beam] == sorted(
        (prefix.score for prefix in beam), reverse=True
    )
    assert sum(math.exp(prefix.score) for prefix in beam) == pytest.approx(1.0)


def test_scores_are_those_of_the_ctc_loss_where_the_beam_loses_nothing() -> None:
    log_probs = random_log_probs(9, 4, seed=5)
    for prefix in extend_beam(EMPTY, log_probs, beam_size=3000, blank=0)[:20]:
        tokens = torch.tensor([list(prefix.tokens)], dtype=torch.int64)
        loss = ctc_loss(
            log_probs[None], tokens, torch.tensor([9]), torch.tensor([len(prefix.tokens)])
        )
        assert prefix.score == pytest.approx(-float(loss[0]), abs=1e-9)
        assert list(prefix.frames) == sorted(set(prefix.frames))


def test_a_small_beam_is_a_lower_bound_and_finds_the_best() -> None:
    log_probs = random_log_probs(6, 3, seed=7)
    expected = all_texts(log_probs)
    beam = extend_beam(EMPTY, log_probs, beam_size=4, blank=0)
    assert beam[0].tokens == max(expected, key=expected.__getitem__)
    assert all(prefix.score <= expected[prefix.tokens] + 1e-12 for prefix in beam)


def test_unknown_tokens_count_as_blanks_and_improbable_ones_are_left_out() -> None:
    log_probs = random_log_probs(5, 4, seed=1)
    beam = extend_beam(EMPTY, log_probs, beam_size=1000, blank=0, unk=2)
    joined = log_probs.clone()
    joined[:, 0] = torch.logaddexp(log_probs[:, 0], log_probs[:, 2])
    joined[:, 2] = -math.inf
    expected = all_texts(joined)
    for prefix in beam:
        assert 2 not in prefix.tokens
        assert prefix.score == pytest.approx(expected[prefix.tokens], abs=1e-10)
    peaky = torch.tensor([[0.9, 0.09, 0.01]] * 3, dtype=torch.float64).log()
    kept = extend_beam(EMPTY, peaky, beam_size=9, blank=0, min_log_prob=math.log(0.05))
    assert {token for prefix in kept for token in prefix.tokens} == {1}


def test_chunks_and_batches_change_nothing() -> None:
    model = make_model(vocab_size=7)
    search = CTCPrefixSearch(model.ctc, beam_size=5, nbest=5, min_log_prob=-math.inf)
    x = torch.randn(2, 12, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    lens = torch.tensor([12, 8])
    whole = search.hypotheses(search.advance(search.start(2), x, lens))
    state = search.start(2)
    for begin in (0, 4, 8):
        part = (lens - begin).clamp(0, 4)
        state = search.advance(state, x[:, begin : begin + 4], part)
    assert search.hypotheses(search.stack(search.unstack(state))) == whole
    for row in range(2):
        alone = search.advance(search.start(1), x[row : row + 1, : lens[row]], lens[row : row + 1])
        (found,) = search.hypotheses(alone)
        assert [h.tokens for h in found] == [h.tokens for h in whole[row]]
        assert [h.score for h in found] == pytest.approx([h.score for h in whole[row]])


def test_it_is_a_method_of_decoding() -> None:
    model = make_model(vocab_size=7)
    search = build_search(model, "ctc_prefix_beam_search", beam_size=3, nbest=2)
    assert isinstance(search, CTCPrefixSearch) and search.nbest == 2
    with pytest.raises(ValueError, match="nbest=4 must be between 1 and beam_size=3"):
        build_search(model, "ctc_prefix_beam_search", beam_size=3, nbest=4)


class _Given(torch.nn.Module):
    """A head whose input are the logits."""

    blank = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.mark.parametrize("goes_on", [True, False])
def test_a_token_that_goes_on_after_a_reset_is_not_emitted_again(goes_on: bool) -> None:
    path = [0, 4, 4, 5] if goes_on else [0, 4, 0, 4]
    logits = 20.0 * torch.nn.functional.one_hot(torch.tensor([path]), 6).float()
    search = CTCPrefixSearch(_Given(), beam_size=3)
    two = torch.tensor([2])
    state = search.advance(search.start(1), logits[:, :2], two)
    (first,) = search.hypotheses(state)[0]
    assert first.tokens == [4]
    state = search.reset(state)
    assert search.hypotheses(state)[0][0].tokens == []
    (second,) = search.hypotheses(search.advance(state, logits[:, 2:], two))[0]
    assert second.tokens == ([5] if goes_on else [4])
    assert second.frames == [3]
    assert abs(second.score) < 1e-6
