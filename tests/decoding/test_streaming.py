"""Chunk by chunk is the masked forward pass over the whole utterance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mvqkd.decoding import (
    CTCGreedySearch,
    GreedySearch,
    ModifiedBeamSearch,
    OnlineFbank,
    StreamingRecognizer,
    decode_chunked,
    decode_whole,
)
from mvqkd.geometry import DIGITAL_SILENCE
from mvqkd.models import AsrModel

Make = Callable[..., AsrModel]
SEARCHES: dict[str, Callable[[AsrModel], Any]] = {
    "greedy": lambda model: GreedySearch(model.transducer),
    "beam": lambda model: ModifiedBeamSearch(model.transducer, beam_size=4, nbest=2),
    "ctc": lambda model: CTCGreedySearch(model.ctc),
}


def utterances(lens: list[int]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    features = torch.randn(len(lens), max(lens), 80, generator=generator, dtype=torch.float64)
    return features * 4 - 8, torch.tensor(lens)


@pytest.mark.parametrize("search_name", SEARCHES)
@pytest.mark.parametrize(("chunk_size", "left_context"), [(4, 8), (8, 0), (3, 5), (16, 64)])
@pytest.mark.parametrize("tail_padding", [0, 30])
def test_chunked_is_simulated(
    make_transducer: Make, search_name: str, chunk_size: int, left_context: int, tail_padding: int
) -> None:
    model = make_transducer(vocab_size=20)
    search = SEARCHES[search_name](model)
    # Ends on, before and after the end of a chunk, and utterances too short for a frame.
    features, lens = utterances([4 * 16 + 3, 4 * 16 + 2, 151, 6, 7, 200, 4 * 16 + 4])
    settings = dict(chunk_size=chunk_size, left_context=left_context, tail_padding=tail_padding)
    simulated = decode_whole(model.encoder, search, features, lens, **settings)
    chunked = decode_chunked(model.encoder, search, features, lens, **settings)
    assert sum(len(found[0].tokens) for found in simulated) > 30
    for one, other in zip(simulated, chunked, strict=True):
        assert [h.tokens for h in one] == [h.tokens for h in other]
        assert [h.frames for h in one] == [h.frames for h in other]
        assert [h.score for h in one] == pytest.approx([h.score for h in other])


def test_sessions_of_different_ages_share_batches(make_transducer: Make) -> None:
    model = make_transducer(vocab_size=20)
    search = ModifiedBeamSearch(model.transducer, beam_size=3)
    features, lens = utterances([150, 90, 120])
    expected = decode_whole(model.encoder, search, features, lens, chunk_size=4, left_context=8)
    recognizer = StreamingRecognizer(model.encoder, search, chunk_size=4, left_context=8)
    sessions = [recognizer.open() for _ in range(3)]
    position, partial = [0, 0, 0], [0, 0, 0]
    for tick in range(200):
        for n, session in enumerate(sessions):
            if tick < 5 * n or session.finished:  # they join one after the other
                continue
            step = (7, 11, 23)[n]
            length = int(lens[n])
            session.accept_features(features[n, position[n] : min(position[n] + step, length)])
            position[n] = min(position[n] + step, length)
            if position[n] == length:
                session.finish()
        recognizer.decode(sessions)
        for n, session in enumerate(sessions):
            tokens = recognizer.hypotheses(session)[0].tokens
            partial[n] += 0 < len(tokens) < len(expected[n][0].tokens)
    assert all(session.finished for session in sessions)
    assert min(partial) > 0  # there were partial results
    for session, (best,) in zip(sessions, expected, strict=True):
        assert recognizer.hypotheses(session)[0].tokens == best.tokens
        assert recognizer.hypotheses(session)[0].frames == best.frames


def test_waveform_in_pieces_is_the_whole_utterance(make_transducer: Make) -> None:
    model = make_transducer(vocab_size=20)
    search = GreedySearch(model.transducer)
    generator = torch.Generator().manual_seed(7)
    samples = torch.randn(23457, generator=generator) * torch.linspace(0.01, 0.5, 23457)
    fbank = OnlineFbank()
    features = torch.cat([fbank.accept(samples), fbank.finish()]).double()
    expected = decode_whole(
        model.encoder,
        search,
        features[None],
        torch.tensor([len(features)]),
        chunk_size=4,
        left_context=8,
    )
    recognizer = StreamingRecognizer(model.encoder, search, chunk_size=4, left_context=8)
    session = recognizer.open()
    for piece in samples.split(1234):
        session.accept_waveform(piece)
        recognizer.decode([session])
    session.finish()
    recognizer.decode([session])
    found = recognizer.hypotheses(session)
    assert found[0].tokens == expected[0][0].tokens
    assert len(found[0].tokens) > 3


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_a_broken_sample_is_told_and_costs_its_frames(
    make_transducer: Make, value: float, caplog: pytest.LogCaptureFixture
) -> None:
    """The session goes on as one that received silence in its frames."""
    model = make_transducer(vocab_size=20).float()
    recognizer = StreamingRecognizer(
        model.encoder, GreedySearch(model.transducer), chunk_size=4, left_context=8
    )
    samples = 0.1 * torch.randn(40000, generator=torch.Generator().manual_seed(0))
    broken = samples.clone()
    broken[16000] = value
    session, expected = recognizer.open(), recognizer.open()
    session.accept_waveform(broken)
    features = OnlineFbank().accept(broken)
    wrong = ~features.isfinite().all(dim=1)
    assert 0 < int(wrong.sum()) <= 3
    assert f"{int(wrong.sum())} frames of 10 ms are taken as silence" in caplog.text
    expected.accept_features(torch.where(wrong[:, None], DIGITAL_SILENCE, features))
    recognizer.decode([session, expected])
    found, wanted = (recognizer.hypotheses(s)[0] for s in (session, expected))
    assert found.tokens == wanted.tokens
    assert any(frame > 28 for frame in found.frames)  # recognized after the sample, at frame 25
    assert found.score == pytest.approx(wanted.score)


def test_tail_padding_decodes_more_frames(make_transducer: Make) -> None:
    """Silence after the end is decoded as sound: the last frame moves, the first tokens stay."""
    model = make_transducer(vocab_size=20)
    with torch.no_grad():
        model.transducer.joiner.output.bias[0] = -100.0  # never a blank: a token at every frame
    search = GreedySearch(model.transducer)
    features, lens = utterances([83, 51])
    for tail_padding, frames in ((0, [20, 12]), (32, [28, 20])):
        found = decode_whole(
            model.encoder,
            GreedySearch(model.transducer, unk=None),
            features,
            lens,
            chunk_size=4,
            left_context=8,
            tail_padding=tail_padding,
        )
        assert [len(best.tokens) for (best,) in found] == frames
    assert search.start(1).offsets == [0]


def test_misuse_is_refused(make_transducer: Make) -> None:
    model = make_transducer(vocab_size=20)
    recognizer = StreamingRecognizer(
        model.encoder, GreedySearch(model.transducer), chunk_size=4, left_context=8
    )
    session = recognizer.open()
    session.accept_features(torch.zeros(3, 80))
    with pytest.raises(ValueError, match="accepted features"):
        session.accept_waveform(torch.zeros(100))
    session.finish()
    with pytest.raises(ValueError, match="finished"):
        session.accept_features(torch.zeros(3, 80))
    full = make_transducer(vocab_size=20, causal=False)
    with pytest.raises(ValueError, match="causal"):
        StreamingRecognizer(
            full.encoder, GreedySearch(full.transducer), chunk_size=4, left_context=8
        )
    with pytest.raises(ValueError, match="chunk_size"):
        StreamingRecognizer(
            model.encoder, GreedySearch(model.transducer), chunk_size=0, left_context=8
        )
