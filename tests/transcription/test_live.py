"""Streams in segments: nothing is lost or changed where they end."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from mvqkd import Recognizer
from mvqkd.decoding import decode_whole
from mvqkd.features.fbank import extract
from mvqkd.transcription.live import EndpointRule, LiveStream, decode_chunk
from mvqkd.transcription.pauses import PAUSES, PauseRule, Utterances
from mvqkd.transcription.screen import transcribe_live
from mvqkd.transcription.transcript import Emission, emissions, words_of
from tests.test_recognizer import experiment, speech


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory: pytest.TempPathFactory) -> Recognizer:
    folder = experiment(tmp_path_factory.mktemp("live") / "exp", streaming=True)
    return Recognizer.load(folder, method="greedy_search")


def audio(seconds: float, seed: int) -> np.ndarray:
    """Speech-like, with pauses."""
    random = np.random.default_rng(seed)
    parts = [np.zeros(0, np.float32)]
    while sum(map(len, parts)) < seconds * 16000:
        parts.append(np.roll(speech(float(random.uniform(0.5, 2.0))), int(random.integers(9999))))
        parts.append(np.zeros(int(random.uniform(0, 2) * 16000), np.float32))
    return np.concatenate(parts)[: int(seconds * 16000)]


def whole(recognizer: Recognizer, samples: np.ndarray) -> list[Emission]:
    features = torch.from_numpy(extract(samples))[None]
    ((hypothesis,),) = decode_whole(
        recognizer.model.encoder,
        recognizer._search,
        features,
        torch.tensor([features.size(1)]),
        chunk_size=4,
        left_context=8,
    )
    return emissions(hypothesis)


def live(
    recognizer: Recognizer,
    inputs: list[np.ndarray],
    rule: EndpointRule,
    block: int,
    pauses: PauseRule | None = None,
) -> list[list[list[Emission]]]:
    """Segments of each input; all are decoded together."""
    sessions = recognizer.sessions()
    streams = [LiveStream(sessions, recognizer.tokens, rule, pauses=pauses) for _ in inputs]
    found: dict[int, list[list[Emission]]] = {id(stream): [] for stream in streams}

    def decode() -> None:
        while brought := decode_chunk(sessions, streams):
            for stream, update in brought:
                found[id(stream)] += [update.final] if update.final else []

    for begin in range(0, max(map(len, inputs)), block):
        for stream, samples in zip(streams, inputs, strict=True):
            stream.accept(samples[begin : begin + block])
        decode()
    for stream in streams:
        stream.finish()
    decode()
    for stream in streams:
        assert stream.ended
        found[id(stream)] += [rest] if (rest := stream.rest()) else []
    return list(found.values())


@pytest.mark.parametrize(
    "rule", [EndpointRule(), EndpointRule(0.2, 2.0), EndpointRule(0.04, 0.5), EndpointRule(9, 0.2)]
)
def test_segments_are_the_whole(recognizer: Recognizer, rule: EndpointRule) -> None:
    samples = audio(12.0, 1)
    expected = whole(recognizer, samples)
    assert len(expected) > 30
    for block in (500, 16000, 10**6):
        (segments,) = live(recognizer, [samples], rule, block)
        joined = [emission for segment in segments for emission in segment]
        assert [each[:2] for each in joined] == [each[:2] for each in expected]
        assert [each[2] for each in joined] == pytest.approx([e[2] for e in expected], abs=1e-3)
        if rule.pause < 1:
            assert len(segments) > 2
        # No word is in two segments where only their length has ended them.
        words = [word.text for segment in segments for word in words_of(segment, recognizer.tokens)]
        if rule.pause > 5:
            one = words_of(expected, recognizer.tokens)
            assert words == [word.text for word in one] and len(segments) > 2
    starts = [word.start for word in words_of(expected, recognizer.tokens)]
    assert starts == sorted(starts)


@pytest.mark.parametrize(
    "rule", [EndpointRule(), EndpointRule(0.8, 2.0), EndpointRule(0.04, 0.5), EndpointRule(9, 0.2)]
)
def test_utterances_are_decoded_by_themselves(recognizer: Recognizer, rule: EndpointRule) -> None:
    samples = audio(14.0, 4)
    parts = list(Utterances().accept(samples))
    assert len(parts) > 3 and all(part.begins for part in parts)
    expected = [
        Emission(each.token, each.frame + part.start // 640, each.log_prob)
        for part in parts
        for each in whole(recognizer, part.samples)
    ]
    for block in (3000, 10**6):
        (segments,) = live(recognizer, [samples], rule, block, PAUSES)
        joined = [emission for segment in segments for emission in segment]
        assert sum(emission.begins for emission in joined) <= len(parts)
        assert [each[:2] for each in joined] == [each[:2] for each in expected]
        for one, other in itertools.pairwise(segments):
            gap = other[0].frame - one[-1].frame
            assert rule.longest < 5 or gap >= rule.pause * 25
        if rule == EndpointRule():
            assert len(segments) > 1
            frames = [[emission.frame for emission in segment] for segment in segments]
            # Frames of the last chunk may be of the next utterance, not of the next segment.
            assert all(b - a <= 30 + 4 for of in frames for a, b in itertools.pairwise(of))


def test_an_utterance_without_tokens_is_none(recognizer: Recognizer) -> None:
    sessions = recognizer.sessions()
    stream = LiveStream(sessions, recognizer.tokens)
    stream.accept(np.zeros(32000, np.float32))
    assert not stream.is_ready and stream.is_pausing and stream.decoded == 50
    stream.finish()
    assert stream.ended and not stream.rest()


def test_a_pause_ends_a_segment(recognizer: Recognizer) -> None:
    rule = EndpointRule(0.4, 20.0)
    (segments,) = live(recognizer, [audio(12.0, 1)], rule, 8000)
    for one, other in itertools.pairwise(segments):
        assert other[0].frame - one[-1].frame > 10
    for segment in segments:  # the next chunk may begin before the end is noticed
        frames = [emission.frame for emission in segment]
        assert all(b - a <= 10 + 4 for a, b in itertools.pairwise(frames))


def test_two_together_are_two_apart(recognizer: Recognizer) -> None:
    inputs = [audio(7.3, 2), audio(4.1, 3), np.zeros(0, np.float32)]
    rule = EndpointRule(0.3, 2.0)
    together = live(recognizer, inputs, rule, 3000)
    for one, samples in zip(together, inputs, strict=True):
        (apart,) = live(recognizer, [samples], rule, 7000)
        assert [[e[:2] for e in segment] for segment in one] == [
            [e[:2] for e in segment] for segment in apart
        ]
    assert together[0] and not together[2]


def test_words_are_printed_once(recognizer: Recognizer, tmp_path: Path) -> None:
    samples, out = audio(12.0, 1), io.StringIO()
    transcript, latencies = transcribe_live(
        recognizer, np.array_split(samples, 100), out, name="a", rule=EndpointRule(0.4, 2.0)
    )
    lines = out.getvalue().splitlines()
    printed = [line.split()[2] for line in lines if not line.startswith("[")]
    assert printed == [word.text for word in transcript.words]
    assert len(latencies) == len(printed) > 5
    segments = [line.partition("] ")[2] for line in lines if line.startswith("[")]
    assert segments == [segment.text for segment in transcript.segments]
    assert transcript.duration == 12.0
