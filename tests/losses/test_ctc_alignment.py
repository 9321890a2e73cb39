"""Forced alignment, against all paths."""

from __future__ import annotations

import itertools

import pytest
import torch

from mvqkd.losses.ctc_alignment import ctc_alignment


def brute_force(log_probs: torch.Tensor, tokens: list[int]) -> list[int]:
    """(T, V): the first frame of each token on the best path."""
    best, found = -float("inf"), [-1] * len(tokens)
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        begins = [t for t, k in enumerate(path) if k and (t == 0 or path[t - 1] != k)]
        if [path[t] for t in begins] != tokens:
            continue
        score = sum(float(log_probs[t, k]) for t, k in enumerate(path))
        if score > best:
            best, found = score, begins
    return found


@pytest.mark.parametrize("seed", range(4))
def test_is_the_best_of_all_paths(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    log_probs = (2 * torch.randn(6, 6, 4, generator=generator)).log_softmax(2)
    tokens = torch.tensor([[1, 2, 3], [2, 2, 0], [3, 0, 0], [0, 0, 0], [1, 1, 1], [1, 3, 1]])
    lens, token_lens = torch.tensor([6, 5, 1, 4, 4, 3]), torch.tensor([3, 2, 1, 0, 3, 3])
    found = ctc_alignment(log_probs, tokens, lens, token_lens)
    for n, (length, count) in enumerate(zip(lens.tolist(), token_lens.tolist(), strict=True)):
        wanted = brute_force(log_probs[n, :length], tokens[n, :count].tolist())
        assert found[n].tolist() == wanted + [-1] * (3 - count)
    # Three equal tokens need five frames.
    assert found[4].tolist() == [-1, -1, -1]


def test_equals_torchaudios() -> None:
    functional = pytest.importorskip("torchaudio.functional")
    generator = torch.Generator().manual_seed(1)
    log_probs = (3 * torch.randn(1, 60, 9, generator=generator)).log_softmax(2)
    tokens = torch.randint(1, 9, (1, 14), generator=generator)
    lens, token_lens = torch.tensor([60]), torch.tensor([14])
    try:
        path, _ = functional.forced_align(log_probs, tokens, lens, token_lens)
    except (RuntimeError, AttributeError):
        pytest.skip("this torchaudio has no forced alignment")
    row = path[0].tolist()
    begins = [t for t, k in enumerate(row) if k and (t == 0 or row[t - 1] != k)]
    assert ctc_alignment(log_probs, tokens, lens, token_lens)[0].tolist() == begins


def test_no_frames_and_no_tokens() -> None:
    one = torch.tensor([1])
    assert ctc_alignment(torch.zeros(1, 0, 3), one[None], 0 * one, one).tolist() == [[-1]]
    none = torch.zeros(1, 0, dtype=torch.int64)
    assert ctc_alignment(torch.zeros(1, 2, 3), none, 2 * one, 0 * one).shape == (1, 0)
