"""CTC prefix scores against sums over all alignments."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from mvqkd.decoding.ctc_prefix_scores import CTCPrefixScores, PrefixState
from mvqkd.models.attention_decoder import select_rows

VOCAB = 4


def transcripts(log_probs: torch.Tensor) -> dict[tuple[int, ...], float]:
    """The probability of every transcript of (T, V) frames."""
    found: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(VOCAB), repeat=len(log_probs)):
        text = tuple(token for token, _ in itertools.groupby(path) if token)
        probability = math.exp(sum(log_probs[t, s].item() for t, s in enumerate(path)))
        found[text] = found.get(text, 0.0) + probability
    return found


@pytest.fixture(scope="module")
def frames():
    torch.manual_seed(0)
    log_probs = (2 * torch.randn(2, 6, VOCAB, dtype=torch.float64)).log_softmax(-1)
    lens = torch.tensor([4, 6])
    return log_probs, lens, [transcripts(log_probs[n, : lens[n]]) for n in range(2)]


def logarithm(probability: float) -> float:
    return math.log(probability) if probability else -math.inf


def test_scores_are_sums_over_alignments(frames):
    log_probs, lens, all_texts = frames
    scores = CTCPrefixScores(log_probs, lens)
    state = scores.start(2)
    texts: list[tuple[int, ...]] = [()] * 4
    choices = torch.tensor([[1, 2, 3], [3, 1, 2]] * 2)
    # With repetitions; the first utterance ends with more tokens than it has frames.
    for picked in ([0, 1, 0, 1], [0, 0, 1, 1], [0, 1, 1, 0], [0, 2, 2, 2], [1, 1, 1, 1]):
        found, longer = scores.extend(state, choices)
        for row, column in itertools.product(range(4), range(3)):
            text = (*texts[row], int(choices[row, column]))
            expected = sum(
                p for other, p in all_texts[row // 2].items() if other[: len(text)] == text
            )
            assert found[row, column].item() == pytest.approx(logarithm(expected), abs=1e-9)
        rows = torch.arange(4) * 3 + torch.tensor(picked)
        state = select_rows(longer, rows)
        texts = [
            (*text, int(choices[row, column]))
            for row, (text, column) in enumerate(zip(texts, picked, strict=True))
        ]
        for row, value in enumerate(scores.end(state).tolist()):
            expected = all_texts[row // 2].get(texts[row], 0.0)
            assert value == pytest.approx(logarithm(expected), abs=1e-9)


def test_the_empty_transcript_is_all_blanks(frames):
    log_probs, lens, _ = frames
    scores = CTCPrefixScores(log_probs, lens)
    expected = [log_probs[n, : lens[n], 0].sum().item() for n in (0, 1)]
    assert scores.end(scores.start(1)).tolist() == pytest.approx(expected)


def test_utterances_can_be_dropped(frames):
    log_probs, lens, _ = frames
    scores = CTCPrefixScores(log_probs, lens)
    choices = torch.tensor([[1, 2]] * 2)
    found, _ = scores.extend(scores.start(1), choices)
    second = scores.keep(torch.tensor([1]))
    alone, _ = second.extend(second.start(1), choices[:1])
    assert torch.equal(alone[0], found[1])


def test_certain_frames_give_no_nan():
    """A CTC head that is sure: log-probabilities of minus thousands over hundreds of frames."""
    logits = torch.full((1, 400, VOCAB), -3000.0)
    logits[0, :, 0] = 0.0
    logits[0, ::20, 1] = 3000.0
    scores = CTCPrefixScores(logits.log_softmax(-1), torch.tensor([400]))
    state: PrefixState = scores.start(1)
    for _ in range(20):
        found, longer = scores.extend(state, torch.tensor([[1, 2]]))
        assert found[0, 0].item() == pytest.approx(0.0, abs=1e-6)
        assert found[0, 1] < -2000
        state = select_rows(longer, torch.tensor([0]))
    assert scores.end(state).item() == pytest.approx(0.0, abs=1e-6)
