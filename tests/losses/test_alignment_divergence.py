"""Divergence between distributions over alignments, against sums over all paths."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from mvqkd.losses.alignment_divergence import Arcs, alignment_divergence
from tests.losses.lattices import TOPOLOGIES, enumerate_paths, random_lattice


def brute_force(student: Arcs, teacher: Arcs, topology: str) -> float:
    """Of lattices (T, U), (T, U + 1)."""
    scores = []
    for arcs in (student, teacher):
        paths = [score for score, _ in enumerate_paths(*arcs, topology)]
        scores.append(torch.tensor(paths, dtype=torch.float64).log_softmax(0))
    found, wanted = scores
    kept = wanted > -math.inf
    return float((wanted.exp() * (wanted - found))[kept].sum())


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_equals_a_sum_over_all_alignments(topology: str) -> None:
    symbol, blank, lens, token_lens = random_lattice(5, 5, 4, seed=3)
    token_lens[2] = 0
    other = random_lattice(5, 5, 4, seed=4)
    for arcs in (symbol, other[0]):  # a band: neither has a path through these
        arcs[0, 1, 2:] = -math.inf
    student, teacher = Arcs(symbol, blank), Arcs(other[0], other[1])
    found = alignment_divergence(student, teacher, lens, token_lens, topology=topology)
    sides = (student, teacher)
    for n, (t, u) in enumerate(zip(lens.tolist(), token_lens.tolist(), strict=True)):
        cut = [Arcs(side.symbol[n, :t, :u], side.blank[n, :t, : u + 1]) for side in sides]
        assert float(found[n]) == pytest.approx(brute_force(*cut, topology), abs=1e-9)
    assert float(found[0]) > 0.01


def test_gradients_are_those_of_differences() -> None:
    symbol, blank, lens, token_lens = random_lattice(3, 4, 3, seed=1)
    teacher = Arcs(*random_lattice(3, 4, 3, seed=2)[:2])

    def loss(symbol: Tensor, blank: Tensor) -> Tensor:
        return alignment_divergence(Arcs(symbol, blank), teacher, lens, token_lens)

    assert torch.autograd.gradcheck(loss, (symbol.requires_grad_(), blank.requires_grad_()))


def test_is_zero_between_equals_whatever_all_paths_share() -> None:
    symbol, blank, lens, token_lens = random_lattice(3, 4, 3)
    # Every path has one blank in each frame.
    moved = Arcs(symbol, blank - 2.0)
    losses = alignment_divergence(moved, Arcs(symbol, blank), lens, token_lens)
    assert_close(losses, torch.zeros_like(losses))


def test_lattices_without_a_path_give_zero() -> None:
    symbol, blank, lens, token_lens = random_lattice(2, 4, 3)
    symbol[0, :, 1] = -math.inf
    symbol.requires_grad_()
    losses = alignment_divergence(
        Arcs(symbol, blank), Arcs(*random_lattice(2, 4, 3, seed=5)[:2]), lens, token_lens
    )
    losses.sum().backward()
    assert losses[0] == 0 and symbol.grad.isfinite().all()
