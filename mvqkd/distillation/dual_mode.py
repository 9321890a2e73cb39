"""A streaming student and its own pass with full context, of one set of weights (dual mode: Yu et
al. 2021, arXiv 2010.06030)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from mvqkd.distillation.context import LossContext
from mvqkd.distillation.outputs import of_utterances
from mvqkd.losses.alignment_divergence import Arcs, alignment_divergence
from mvqkd.losses.cell_divergence import JoinerInput, cell_divergence
from mvqkd.losses.joint import band_log_probs
from mvqkd.losses.lattice import Backend, Topology
from mvqkd.models import FULL_CONTEXT


class DualMode(nn.Module):
    """Divergence between the pass with chunks and the pass with full context of the same weights: a
    `DistillationLoss` of batches with hypotheses. It is 0 in steps with full context alone.

    The passes are compared within the band of the pass with chunks:

    - `cells`: the distributions over the next symbol in each cell, summed over cells;
    - `lattice`: the distributions over the alignments of the transcript, one for each utterance.

    With the direction `one_way` the pass with full context, without gradient, is imitated by the
    one with chunks. With `symmetric` each is imitated by the other, and the loss is the mean of
    both, as in the consistency regularization of arXiv 2604.19079.

    Args:
        weight: of the loss in the total.
        final_weight_fraction: what is left of the weight at the end of the training.
        kind: what is compared.
        symmetric: whether the direction is `symmetric`.
        collapsed: with `cells`, distributions over the next token, blank and the rest.
        topology, backend: with `lattice`, see `mvqkd.losses.lattice.lattice_log_likelihood`.
    """

    validates = True
    needs_hypotheses = True

    def __init__(
        self,
        *,
        weight: float,
        final_weight_fraction: float = 1.0,
        kind: Literal["cells", "lattice"] = "cells",
        symmetric: bool = False,
        collapsed: bool = False,
        topology: Topology = "regular",
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        self.taps = ["output"]
        self.weight = weight
        self.final_weight_fraction = final_weight_fraction
        self.kind = kind
        self.symmetric = symmetric
        self.collapsed = collapsed
        self.topology = topology
        self.backend = backend

    def forward(self, context: LossContext) -> Tensor:
        """(N,) float32 losses, summed over cells or of the lattice."""
        found, hypotheses = context.transducer, context.batch.hypotheses
        assert found is not None and hypotheses is not None
        if context.streaming == FULL_CONTEXT:
            return context.features.new_zeros(len(context.batch), dtype=torch.float32)
        chunks, full = (
            JoinerInput(hypotheses.of_owners(out), found.predictor_out, found.joiner)
            for out in (context.taps["output"], context.full_context().taps["output"])
        )
        compare = self._cells if self.kind == "cells" else self._lattices
        losses = compare(context, chunks, full)
        if self.symmetric:
            losses = (losses + compare(context, full, chunks)) / 2
        return of_utterances(losses, context)

    def _cells(self, context: LossContext, student: JoinerInput, teacher: JoinerInput) -> Tensor:
        found, hypotheses = context.transducer, context.batch.hypotheses
        assert found is not None and hypotheses is not None
        return cell_divergence(
            student, teacher, found.tokens, hypotheses.lens, found.band, collapsed=self.collapsed
        )

    def _lattices(self, context: LossContext, student: JoinerInput, teacher: JoinerInput) -> Tensor:
        found, hypotheses = context.transducer, context.batch.hypotheses
        assert found is not None and hypotheses is not None
        with torch.no_grad():
            wanted = Arcs(*band_log_probs(*teacher, found.tokens, found.band))
        return alignment_divergence(
            Arcs(*band_log_probs(*student, found.tokens, found.band)),
            wanted,
            hypotheses.of_owners(context.lens),
            hypotheses.lens,
            topology=self.topology,
            backend=self.backend,
        )
