from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mvqkd.teachers.ctc_probe import probe


def utterances(count: int, *, informative: bool, seed: int) -> list[tuple[Tensor, str]]:
    """Each letter lasts three frames, a blank one between; or noise of the same kind."""
    generator = torch.Generator().manual_seed(seed)
    pairs = []
    for _ in range(count):
        symbols = torch.randint(1, 5, (6,), generator=generator)
        classes = torch.stack([symbols, symbols, symbols, torch.zeros_like(symbols)], 1).flatten()
        if not informative:
            classes = torch.randint(0, 5, classes.shape, generator=generator)
        frames = 100 + 5 * torch.nn.functional.one_hot(classes, 5).float()
        frames += 0.5 * torch.randn(frames.shape, generator=generator)
        pairs.append((frames.half(), "".join(" abcd"[s] for s in symbols)))
    return pairs


def test_a_probe_tells_features_with_speech_from_features_without() -> None:
    good, bad = (
        probe(
            utterances(30, informative=informative, seed=0),
            utterances(10, informative=informative, seed=1),
            steps=50,
            learning_rate=0.03,
        )
        for informative in (True, False)
    )
    assert good.characters.wer < 5 < 50 < bad.characters.wer
    assert good.loss < 0.7 * bad.loss
    assert good.characters.words == 10 * 6


def test_a_probe_is_reproducible() -> None:
    train, test = (utterances(20, informative=True, seed=s) for s in (0, 1))
    first = probe(train, test, steps=3)
    torch.rand(3)
    assert probe(train, test, steps=3) == first


def test_the_loss_is_one_of_characters_that_frames_have_room_for() -> None:
    train, test = (utterances(12, informative=True, seed=s) for s in (0, 1))
    short = [(frames[:8], text[:2]) for frames, text in test[:4]]
    crowded = [(frames[:5], text) for frames, text in test]  # 6 letters
    apart = [probe(train, part, steps=5) for part in (test, short)]
    both = probe(train, [*test, *short], steps=5)
    characters = [6 * 12, 2 * 4]
    wanted = sum(n * found.loss for n, found in zip(characters, apart, strict=True))
    assert both.loss == pytest.approx(wanted / sum(characters), rel=1e-4)
    assert both.too_short == 0
    found = probe(train, [*test, *crowded], steps=5)
    assert found.too_short == 12 and found.loss == pytest.approx(apart[0].loss, rel=1e-4)
    assert found.characters.words == 2 * 6 * 12


def test_a_probe_needs_utterances() -> None:
    with pytest.raises(ValueError, match="utterances to train"):
        probe([], utterances(1, informative=True, seed=0))
