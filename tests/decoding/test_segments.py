"""Log-probabilities of tokens, and streams that begin new segments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mvqkd.decoding import (
    CTCGreedySearch,
    GreedySearch,
    Hypothesis,
    ModifiedBeamSearch,
    StreamingRecognizer,
)
from mvqkd.models import AsrModel

Make = Callable[..., AsrModel]
GREEDY: dict[str, Callable[[AsrModel], Any]] = {
    "greedy": lambda model: GreedySearch(model.transducer),
    "two symbols": lambda model: GreedySearch(model.transducer, max_symbols_per_frame=2),
    "beam of one": lambda model: ModifiedBeamSearch(model.transducer, beam_size=1),
    "ctc": lambda model: CTCGreedySearch(model.ctc),
}
SEARCHES = {**GREEDY, "beam": lambda model: ModifiedBeamSearch(model.transducer, beam_size=4)}


def frames_of(seed: int, lens: list[int]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randn(len(lens), max(lens), 16, generator=generator, dtype=torch.float64)
    return frames, torch.tensor(lens)


def alone(model: AsrModel, name: str, frame: Tensor, before: list[int], token: int) -> float:
    """Log-probability of a token at a frame, without batches and caches."""
    if name == "ctc":
        return float(model.ctc(frame[None, None]).detach().log_softmax(-1)[0, 0, token])
    head = model.transducer
    context = [*[-1] * (head.context_size - 1), 0, *before][-head.context_size :]
    predicted = head.joiner.project_predictor(head.predictor.step(torch.tensor([context])))
    logits = head.joiner(head.joiner.project_encoder(frame[None]), predicted)
    return float(logits.detach().log_softmax(-1)[0, token])


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("division", [1, 7])
def test_tokens_have_their_log_probabilities(
    make_transducer: Make, name: str, division: int
) -> None:
    model = make_transducer(vocab_size=9)
    search = SEARCHES[name](model)
    frames, lens = frames_of(0, [40, 25, 1])
    state = search.start(3)
    for part in frames.split(40 // division, dim=1):
        state = search.advance(state, part, lens.clamp(max=part.size(1)))
        lens = (lens - part.size(1)).clamp(min=0)
    count = 0
    for row, (found,) in zip(frames, search.hypotheses(state), strict=True):
        assert len(found.log_probs) == len(found.tokens)
        for i, (token, frame) in enumerate(zip(found.tokens, found.frames, strict=True)):
            expected = alone(model, name, row[frame], found.tokens[:i], token)
            assert found.log_probs[i] == pytest.approx(expected, abs=1e-5)
            count += 1
    assert count > 15


def joined(parts: list[Hypothesis]) -> tuple[list[int], list[int]]:
    return (
        [token for part in parts for token in part.tokens],
        [frame for part in parts for frame in part.frames],
    )


@pytest.mark.parametrize("name", GREEDY)
def test_greedy_segments_are_the_whole(make_transducer: Make, name: str) -> None:
    model = make_transducer(vocab_size=9)
    search = GREEDY[name](model)
    frames, lens = frames_of(1, [60, 60])
    (first,), (second,) = search.hypotheses(search.advance(search.start(2), frames, lens))
    state, parts = search.start(2), []
    for part in frames.split(13, dim=1):
        state = search.advance(state, part, torch.full((2,), part.size(1)))
        parts.append([found for (found,) in search.hypotheses(state)])
        state = search.reset(state)
    assert not any(found.tokens for (found,) in search.hypotheses(state))
    assert joined([one for one, _ in parts]) == (first.tokens, first.frames)
    assert joined([other for _, other in parts]) == (second.tokens, second.frames)
    assert len(first.tokens) > 10
    assert sum(one.score for one, _ in parts) == pytest.approx(first.score)


def test_a_beam_goes_on_from_its_best_hypothesis(make_transducer: Make) -> None:
    model = make_transducer(vocab_size=9)
    search = ModifiedBeamSearch(model.transducer, beam_size=4)
    frames, lens = frames_of(2, [30, 12])
    before = search.advance(search.start(2), frames, lens)
    (one,), (other,) = search.hypotheses(before)
    state = search.reset(before)
    assert state.offsets == [30, 12] and state.scores[:, 0].tolist() == [0.0, 0.0]
    assert state.context[:, 0].tolist() == [one.tokens[-2:], other.tokens[-2:]]
    after = search.advance(state, frames[:, :5], torch.tensor([5, 5]))
    for (found,), offset in zip(search.hypotheses(after), (30, 12), strict=True):
        assert found.tokens and all(offset <= frame < offset + 5 for frame in found.frames)


def test_sessions_count_frames_and_begin_segments(make_transducer: Make) -> None:
    model = make_transducer(vocab_size=20)
    search = GreedySearch(model.transducer)
    recognizer = StreamingRecognizer(model.encoder, search, chunk_size=4, left_context=8)
    generator = torch.Generator().manual_seed(5)
    features = torch.randn(203, 80, generator=generator, dtype=torch.float64) * 4 - 8
    whole, session = recognizer.open(), recognizer.open()
    for each in (whole, session):
        each.accept_features(features)
        each.finish()
    recognizer.decode([whole])
    parts = []
    while recognizer.is_ready(session):
        recognizer.step([session])
        parts.append(recognizer.hypotheses(session))
        recognizer.reset(session)
    assert session.decoded == whole.decoded == 50 and len(parts) == 13
    found = recognizer.hypotheses(whole)[0]
    assert joined([part for (part,) in parts]) == (found.tokens, found.frames)
