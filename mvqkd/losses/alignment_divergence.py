"""Divergence between two transducers' distributions over the alignments of a transcript."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mvqkd.losses.lattice import Backend, Topology, lattice_log_likelihood


class Arcs(NamedTuple):
    """Log-probabilities of a lattice's arcs, -inf outside of the band that is kept."""

    symbol: Tensor
    """(N, T, U)."""
    blank: Tensor
    """(N, T, U + 1)."""


def alignment_divergence(
    student: Arcs,
    teacher: Arcs,
    lens: Tensor,
    token_lens: Tensor,
    *,
    topology: Topology = "regular",
    backend: Backend = "auto",
) -> Tensor:
    """KL(teacher || student) between the distributions over the alignments of a transcript,
    P(path | tokens) = exp(score of the path) / Z:

        L = sum_path P_teacher(path) log P_teacher(path) / P(path)
          = sum_arc occupancy_teacher(arc) (a_teacher(arc) - a(arc)) - log Z_teacher + log Z

    where a is an arc's log-probability and the occupancy its expected count, which the
    forward-backward algorithm gives. The gradient of a is the difference of the two occupancies.

    Args:
        student: with gradient.
        teacher: without gradient, with the same arcs forbidden.
        lens: (N,) valid frames.
        token_lens: (N,) valid tokens.
        topology, backend: see `lattice_log_likelihood`.

    Returns:
        (N,) nats, of the arcs' type; 0 where there is no path.
    """

    def sum_paths(arcs: Arcs) -> tuple[Tensor, Tensor, Tensor]:
        return lattice_log_likelihood(
            arcs.symbol, arcs.blank, lens, token_lens, topology=topology, backend=backend
        )

    with torch.no_grad():
        wanted = Arcs(teacher.symbol.detach(), teacher.blank.detach())
        scores, *occupancies = sum_paths(wanted)
    found = sum_paths(student)[0]
    possible = scores.isfinite() & found.isfinite()
    losses = (found - scores).where(possible, 0.0)
    for share, theirs, own in zip(occupancies, wanted, student, strict=True):
        # Where no path goes, both may be -inf.
        used = (share > 0) & possible[:, None, None]
        difference = theirs.where(used, 0.0) - own.where(used, 0.0)
        losses = losses + (share * difference).sum((1, 2))
    return losses
