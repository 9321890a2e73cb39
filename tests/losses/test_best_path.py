"""Viterbi over transducer lattices, against all paths."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from mvqkd.losses import best_path as module
from mvqkd.losses.best_path import best_path, lattice_log_probs, path_band
from tests.losses.lattices import enumerate_paths, random_lattice
from tests.losses.test_cell_divergence import STUDENT, TOKENS


@pytest.mark.parametrize("seed", range(4))
def test_is_the_best_of_all_paths(seed: int) -> None:
    lattice = random_lattice(5, 5, 4, seed=seed)
    symbol, blank, lens, token_lens = lattice
    lens = lens.clamp(min=1)
    found = best_path(symbol, blank, lens, token_lens)
    band = path_band(found, lens, token_lens)
    for n, (length, count) in enumerate(zip(lens.tolist(), token_lens.tolist(), strict=True)):
        # What is in the padding would change the result.
        paths = enumerate_paths(
            symbol[n, :length, :count], blank[n, :length, : count + 1], "regular"
        )
        _, arcs = max(paths, key=lambda path: path[0])
        wanted = [t for kind, t, _ in arcs if kind == "symbol"]
        assert found[n, :count].tolist() == wanted
        assert (found[n, count:] == length).all()
        mine = band.utterances == n
        cells = zip(band.frames[mine].tolist(), band.positions[mine, 0].tolist(), strict=True)
        assert sorted(cells) == sorted((t, u) for _, t, u in arcs)


def test_a_delayed_path_ends_with_the_utterance() -> None:
    frames, lens, token_lens = (
        torch.tensor([[0, 2], [1, 1]]),
        torch.tensor([3, 2]),
        torch.tensor([2, 1]),
    )
    band = path_band(frames, lens, token_lens, delay=1)
    found = sorted(
        zip(
            band.utterances.tolist(),
            band.frames.tolist(),
            band.positions[:, 0].tolist(),
            strict=True,
        )
    )
    assert found == [(0, 1, 0), (0, 1, 1), (0, 2, 1), (1, 1, 0)]


def test_an_utterance_without_frames_has_no_path() -> None:
    lens, token_lens = torch.tensor([0, 2]), torch.tensor([1, 1])
    frames = best_path(torch.zeros(2, 2, 1), torch.zeros(2, 2, 2), lens, token_lens)
    assert set(path_band(frames, lens, token_lens).utterances.tolist()) == {1}


@pytest.mark.parametrize("chunk", [1, 70, 10**6])
def test_log_probabilities_are_the_joiners(chunk: int, monkeypatch) -> None:
    monkeypatch.setattr(module, "_CPU_CHUNK", chunk)
    encoder, predictor = STUDENT.projected()
    wanted = STUDENT.joiner(encoder[:, :, None], predictor[:, None]).log_softmax(3)
    symbol, blank = lattice_log_probs(STUDENT, TOKENS)
    assert_close(blank, wanted[..., 0].detach())
    index = TOKENS[:, None, :, None].expand(-1, 5, -1, 1)
    assert_close(symbol, wanted[:, :, :-1].gather(3, index).squeeze(3).detach())
