"""Searches of attention decoders against a plain search: one utterance, no caches, no tensors of
several hypotheses."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.testing import assert_close

from mvqkd.decoding import (
    attention_beam_search,
    attention_greedy_search,
    build_search,
    decode_whole,
    default_method,
)
from mvqkd.models import (
    AsrModel,
    ConformerEncoder,
    CTCHead,
    GruDecoder,
    TransformerDecoder,
)

VOCAB, DIM, EOS = 7, 8, 1
LENS = torch.tensor([9, 0, 5, 7, 1])


def make_decoder(kind: str, seed: int = 0):
    torch.manual_seed(seed)
    shared = {"encoder_dim": DIM, "vocab_size": VOCAB, "dim": DIM, "num_layers": 1}
    if kind == "gru":
        decoder = GruDecoder(**shared, embedding_dim=4, filters=3, filter_frames=3)
        decoder.energy.weight.data *= 20
    else:
        decoder = TransformerDecoder(**shared, num_heads=2, feedforward_dim=16)
    decoder = decoder.double().eval()
    with torch.no_grad():
        # Random logits are nearly equal; sharper ones depend on the frames and on the tokens.
        decoder.output.weight *= 3.0
        decoder.output.bias[EOS] += 0.5
    return decoder


def make_frames(seed: int = 1):
    torch.manual_seed(seed)
    out = 2 * torch.randn(len(LENS), 9, DIM, dtype=torch.float64)
    return out * (torch.arange(9) < LENS[:, None]).unsqueeze(2)


def make_ctc(seed: int = 2) -> CTCHead:
    torch.manual_seed(seed)
    ctc = CTCHead(encoder_dim=DIM, vocab_size=VOCAB).double()
    ctc.output.weight.data *= 3.0
    return ctc


# ---- the plain search --------------------------------------------------------------------------


def next_log_probs(decoder, frames, tokens):
    """(V,) after tokens, from the beginning."""
    memory = decoder.memory(frames[None], torch.tensor([len(frames)]))
    logits = decoder(memory, torch.tensor([[EOS, *tokens]]))
    found = logits[0, -1].log_softmax(-1)
    found[[0, 2]] = -math.inf  # the blank and <unk>
    return found.tolist()


def prefix_probability(probabilities, tokens):
    """P(begins with the tokens) and P(is the tokens) under CTC, by the forward algorithm."""
    token, blank = 0.0, 1.0  # of the empty text, before the first frame
    ends = []
    for frame in probabilities:
        token, blank = 0.0, blank * frame[0]
        ends.append((token, blank))
    begins = 1.0
    for position, symbol in enumerate(tokens):
        repeated = position > 0 and tokens[position - 1] == symbol
        before = [(0.0, 1.0 if position == 0 else 0.0), *ends[:-1]]
        token = blank = begins = 0.0
        ends_now = []
        for frame, (earlier_token, earlier_blank) in zip(probabilities, before, strict=True):
            enters = earlier_blank + (0.0 if repeated else earlier_token)
            begins += enters * frame[symbol]
            token, blank = (token + enters) * frame[symbol], (blank + token) * frame[0]
            ends_now.append((token, blank))
        ends = ends_now
    return begins, sum(ends[-1])


def plain_search(decoder, frames, *, beam, exponent, most, ctc=None, weight=0.0):
    """(tokens, score, finished), the best first."""
    probabilities = None if ctc is None else ctc(frames).softmax(-1).tolist()

    def joint(attention, tokens, ends):
        if probabilities is None or attention == -math.inf:
            return attention
        p = prefix_probability(probabilities, tokens)[ends]
        return (1 - weight) * attention + weight * (math.log(p) if p else -math.inf)

    going, ended = [((), 0.0, 0.0)], []
    for length in range(1, most + 2):
        candidates = []
        for tokens, attention, _ in going:
            after = next_log_probs(decoder, frames, tokens)
            others = sorted((v for v in range(VOCAB) if v != EOS), key=lambda v: -after[v])
            for v in others[: 2 * beam]:
                total = attention + after[v]
                longer = (*tokens, v)
                candidates.append((longer, total, joint(total, longer, False), False))
            total = attention + after[EOS]
            candidates.append((tokens, total, joint(total, tokens, True), True))
        candidates = [c for c in candidates if c[2] > -math.inf]
        candidates.sort(key=lambda c: -c[2])
        candidates = candidates[: 2 * beam]
        for tokens, _, score, ends in candidates[:beam]:
            if ends:
                ended.append((score / length**exponent, tokens, score))
        ended = sorted(ended, key=lambda e: -e[0])[:beam]
        before = going
        going = [c[:3] for c in candidates if not c[3]][:beam]
        full = len(ended) == beam and going and going[0][2] / length**exponent <= ended[-1][0]
        if full or not going or length > most:
            break
    if ended:
        return [(list(tokens), score, True) for _, tokens, score in ended]
    return [(list(before[0][0]), before[0][2], False)]


# ---- comparisons -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["transformer", "gru"])
@pytest.mark.parametrize(
    ("beam", "exponent", "weight", "per_frame"),
    [(1, 1.0, 0.0, 1.0), (3, 1.0, 0.0, 1.0), (3, 0.0, 0.4, 1.0), (2, 0.6, 0.3, 0.5)],
)
def test_beam_search_is_the_plain_search(kind, beam, exponent, weight, per_frame):
    decoder, ctc = make_decoder(kind), make_ctc()
    frames = make_frames()
    found = attention_beam_search(
        decoder, frames, LENS, beam_size=beam, nbest=beam, length_exponent=exponent,
        ctc=ctc, ctc_weight=weight, max_tokens_per_frame=per_frame,
    )  # fmt: skip
    for n, length in enumerate(LENS.tolist()):
        if not length:
            assert [(x.tokens, x.score) for x in found[n]] == [([], 0.0)]
            continue
        expected = plain_search(
            decoder, frames[n, :length], beam=beam, exponent=exponent,
            most=max(1, int(length * per_frame)), ctc=ctc if weight else None, weight=weight,
        )  # fmt: skip
        assert [(x.tokens, x.finished) for x in found[n]] == [(t, f) for t, _, f in expected]
        assert [x.score for x in found[n]] == pytest.approx([score for _, score, _ in expected])
        assert not any(x.frames for x in found[n])


def test_the_comparison_sees_texts_of_several_tokens_that_differ():
    texts = [
        tuple(x[0].tokens)
        for x in attention_beam_search(make_decoder("gru"), make_frames(), LENS, beam_size=3)
    ]
    assert len(set(texts)) >= 3 and max(map(len, texts)) >= 3


@pytest.mark.parametrize("kind", ["transformer", "gru"])
def test_a_wide_beam_finds_the_most_probable_text(kind):
    """Against all texts of at most three tokens, without normalization."""
    decoder, frames = make_decoder(kind), make_frames()[2:3, :3]
    best = (-math.inf, ())
    for length in range(4):
        for tokens in itertools.product(range(3, VOCAB), repeat=length):
            total = sum(
                next_log_probs(decoder, frames[0], tokens[:u])[v]
                for u, v in enumerate((*tokens, EOS))
            )
            best = max(best, (total, tokens))
    found = attention_beam_search(
        decoder, frames, torch.tensor([3]), beam_size=64, length_exponent=0.0
    )[0][0]
    assert tuple(found.tokens) == best[1] and found.score == pytest.approx(best[0])


@pytest.mark.parametrize("kind", ["transformer", "gru"])
def test_greedy_search_takes_the_most_probable_token(kind):
    decoder, frames = make_decoder(kind), make_frames()
    found = attention_greedy_search(decoder, frames, LENS, max_tokens_per_frame=0.7)
    for n, length in enumerate(LENS.tolist()):
        tokens, score, finished = [], 0.0, length == 0
        most = max(1, int(0.7 * length))
        while length:
            after = next_log_probs(decoder, frames[n, :length], tokens)
            token = max(range(VOCAB), key=after.__getitem__)
            if token != EOS and len(tokens) == most:
                break
            score += after[token]
            if token == EOS:
                finished = True
                break
            tokens.append(token)
        (hypothesis,) = found[n]
        assert (hypothesis.tokens, hypothesis.finished) == (tokens, finished)
        assert hypothesis.score == pytest.approx(score)


def test_texts_that_never_end_are_unfinished():
    decoder, frames = make_decoder("transformer"), make_frames()
    decoder.output.bias.data[EOS] -= 100.0
    for found in (
        attention_beam_search(decoder, frames, LENS, beam_size=2, nbest=2),
        attention_greedy_search(decoder, frames, LENS),
    ):
        assert [len(x) for x in found] == [1] * 5
        assert [len(x[0].tokens) for x in found] == [9, 0, 5, 7, 1]
        assert [x[0].finished for x in found] == [False, True, False, False, False]


def test_a_batch_without_frames_is_empty():
    decoder, nothing = make_decoder("gru"), torch.zeros(2, dtype=torch.int64)
    for search in (attention_beam_search, attention_greedy_search):
        found = search(decoder, make_frames()[:2], nothing)
        assert [x[0].tokens for x in found] == [[], []]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_size": 0}, "beam_size=0"),
        ({"beam_size": 2, "nbest": 3}, "nbest=3"),
        ({"ctc_weight": 0.3}, "with a CTC head"),
        ({"ctc_weight": 1.0}, "ctc_weight=1.0"),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        attention_beam_search(make_decoder("gru"), make_frames(), LENS, **options)


# ---- behind the interface of all searches ------------------------------------------------------


@pytest.fixture
def model() -> AsrModel:
    torch.manual_seed(0)
    encoder = ConformerEncoder(
        dim=DIM, num_layers=1, num_heads=2, feedforward_dim=16, conv_kernel=3, causal=True
    )
    return AsrModel(encoder.double(), ctc=make_ctc(), attention=make_decoder("gru")).eval()


def test_a_search_goes_on_with_the_next_frames_and_joins_streams(model):
    assert default_method(model) == "attention_beam_search"
    search = build_search(model, "attention_beam_search", nbest=2, ctc_weight=0.3)
    frames = make_frames()
    whole = search.hypotheses(search.advance(search.start(5), frames, LENS))
    first, rest = LENS.clamp(max=4), (LENS - 4).clamp(min=0)
    state = search.advance(search.start(5), frames[:, :4], first)
    parts = search.unstack(state)
    state = search.advance(
        search.stack([*parts[3:], *parts[:3]]), frames[:, 4:].roll(2, 0), rest.roll(2)
    )
    again = search.hypotheses(state)
    for one, other in zip(whole, [*again[2:], *again[:2]], strict=True):
        assert [x.tokens for x in one] == [x.tokens for x in other]
        assert_close([x.score for x in one], [x.score for x in other])
    assert [x[0].tokens for x in search.hypotheses(search.start(2))] == [[], []]


def test_whole_utterances_are_decoded(model):
    features, lens = torch.randn(2, 60, 80, dtype=torch.float64), torch.tensor([60, 44])
    for method in ("attention_greedy_search", "attention_beam_search", "ctc_greedy_search"):
        found = decode_whole(model.encoder, build_search(model, method), features, lens)
        assert len(found) == 2
    with pytest.raises(ValueError, match="no transducer head for greedy_search"):
        build_search(model, "greedy_search")
