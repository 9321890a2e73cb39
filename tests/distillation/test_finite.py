"""Losses and gradients are finite whatever the features are, and no memory is read before it is
written."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from mvqkd.data.loading.batch import Batch
from mvqkd.data.loading.hypotheses import Hypotheses
from mvqkd.distillation import DualMode, OutputDistillation, TokenDivergence
from mvqkd.distillation.auxiliary import AuxiliaryLayers
from mvqkd.distillation.context import DecoderOutput
from mvqkd.distillation.imitation import feature_loss
from mvqkd.losses.cell_divergence import cell_divergence
from mvqkd.models.auxiliary_branch import ProjectionBranch
from mvqkd.training.objective import Objective
from tests.distillation.test_auxiliary import PAIRS, auxiliary
from tests.distillation.test_decoder_outputs import with_teacher
from tests.distillation.test_outputs import teacher
from tests.losses.test_cell_divergence import BAND, STUDENT, TEACHER, TOKEN_LENS, TOKENS
from tests.training.helpers import VOCAB, make_batch, make_objective
from tests.training.test_attention_head import make_objective as attention_objective


def direct() -> AuxiliaryLayers:
    branches = [ProjectionBranch(16, 24) for _ in PAIRS]
    options = {"relation_weight": 0.0, "future_weight": 0.0}
    return AuxiliaryLayers(PAIRS, branches, auxiliary().teacher, **options)


LOSSES: dict[str, Callable[[], nn.Module]] = {
    "layers": lambda: auxiliary(shift=4),
    "direct": direct,
    "band": lambda: OutputDistillation(teacher(), weight=1.0),
    "collapsed": lambda: OutputDistillation(teacher(), weight=1.0, collapsed=True, delay=2),
    "best_path": lambda: OutputDistillation(teacher(), weight=1.0, best_path=True, delay=1),
    "cells": lambda: DualMode(weight=1.0, symmetric=True),
    "cells_collapsed": lambda: DualMode(weight=1.0, collapsed=True),
    "lattice": lambda: DualMode(weight=1.0, kind="lattice", symmetric=True),
    "lattice_one_way": lambda: DualMode(weight=1.0, kind="lattice"),
}
DECODERS: dict[str, Callable[[], Objective]] = {
    "tokens": lambda: with_teacher()[0],
    "tokens_warm": lambda: with_teacher(temperature=4.0)[0],
    "hypotheses_decoder": lambda: attention_objective(smoothing=0.1),
    "hypotheses_gru": lambda: attention_objective("gru"),
}
"""Students of full context with an attention decoder and a CTC head."""
NAMES = [*LOSSES, *DECODERS, "hypotheses"]


def student(name: str) -> Objective:
    """One with this loss: a streaming transducer, or a decoder."""
    if name in DECODERS:
        return DECODERS[name]()
    if name == "hypotheses":
        return make_objective(causal=True, chunk_sizes=[2], left_context=4)
    loss = LOSSES[name]()
    return make_objective(
        distillation={name: loss},
        causal=True,
        chunk_sizes=[2],
        left_context=4,
        full_context_weight=1.0 if isinstance(loss, DualMode) else 0.0,
    )


def constant(value: float) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.full_like(x, value)


FEATURES: dict[str, Callable[[Tensor], Tensor]] = {
    "zero": constant(0.0),
    "silent": constant(-23.0),
    "large": lambda x: 1e4 * x,
    "alternating": lambda x: 1e4 * x.sign(),
    "one bin": lambda x: x * (torch.arange(x.shape[2]) == 3) * 1e4,
}


def batches() -> list[Batch]:
    """An utterance of one frame; one beside a longer one; more tokens than frames."""
    uneven = make_batch("a", "hello", tokens=1)
    uneven.feature_lens[0] = 7
    return [make_batch("a", frames=7, tokens=1), uneven, make_batch("a", "b", tokens=12)]


def several(batch: Batch) -> Batch:
    """With hypotheses of a teacher in place of transcripts: two of each utterance, of other lengths
    and weights, and one without tokens."""
    assert batch.hypotheses is not None
    tokens, lens = batch.hypotheses.tokens, batch.hypotheses.lens
    shorter = tokens.clone()
    shorter[:, 1:] = -100
    nothing = torch.full_like(tokens[:1], -100)
    count = len(batch)
    hypotheses = Hypotheses(
        torch.cat([tokens, shorter, nothing]),
        torch.cat([lens, lens.clamp(max=1), lens.new_zeros(1)]),
        torch.cat([torch.arange(count), torch.arange(count), torch.zeros(1, dtype=torch.int64)]),
        torch.tensor([*[0.7] * count, *[0.3] * count, 1e-6]),
        one_each=False,
    )
    return replace(batch, hypotheses=hypotheses)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_any_features_give_finite_losses_and_gradients(name: str, precision: str) -> None:
    objective = student(name)
    chunk_size = -1 if name in DECODERS else 2
    for number, (batch, made) in enumerate(itertools.product(batches(), FEATURES)):
        if name not in LOSSES:
            batch = several(batch)
        features = FEATURES[made](batch.features)
        # The teacher's features change too, or only the student's, as by SpecAugment.
        clean = features if number % 2 else batch.features
        objective.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            changed = replace(batch, features=clean)
            losses = objective(changed, features=features, step=100, chunk_size=chunk_size)
        for component, value in losses.components.items():
            assert value.isfinite(), (made, component)
        losses.total().backward()
        for parameter, value in objective.named_parameters():
            assert value.grad is not None and value.grad.isfinite().all(), (made, parameter)


@pytest.mark.parametrize("name", NAMES)
def test_no_memory_is_read_before_it_is_written(name: str) -> None:
    """With `torch.empty` full of NaN all is as it was."""
    objective, batch = student(name), make_batch("a", "b", "hello")
    if name not in LOSSES:
        batch = several(batch)
    chunk_size = -1 if name in DECODERS else 2

    def step() -> list[Tensor]:
        objective.zero_grad(set_to_none=True)
        losses = objective(batch, step=100, chunk_size=chunk_size)
        losses.total().backward()
        return [losses.recognition, losses.distillation, *(p.grad for p in objective.parameters())]

    wanted = step()
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.utils.deterministic.fill_uninitialized_memory
        assert torch.empty(1000).isnan().all()
        found = step()
    finally:
        torch.use_deterministic_algorithms(False)
    assert_close(found, wanted)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e4, 1e15])
def test_frames_of_any_size_are_imitated(scale: float) -> None:
    frames = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    for z, h in ((frames, scale * frames), (scale * frames, frames), (scale * frames,) * 2):
        own: Any = z.clone().requires_grad_()
        loss = feature_loss(own, h.flip(1), torch.tensor([3, 2]))
        loss.sum().backward()
        assert loss.isfinite().all() and own.grad.isfinite().all()


@pytest.mark.parametrize("temperature", [0.5, 4.0])
@pytest.mark.parametrize("scale", [0.0, 1e4, 1e8])
def test_certain_tokens_diverge_by_finite_amounts(temperature: float, scale: float) -> None:
    """Logits of a teacher and a student that are far apart; NaN after the end of a hypothesis
    changes nothing."""
    loss = TokenDivergence(cast(Any, None), weight=1.0, temperature=temperature)
    generator = torch.Generator().manual_seed(0)
    theirs, own = (scale * torch.randn(2, 4, VOCAB, generator=generator) for _ in range(2))
    targets = torch.tensor([[3, 4, 5, 1], [3, 1, -100, -100]])
    found = []
    for padding in (0.0, torch.nan):
        sides = [x.masked_fill((targets == -100)[:, :, None], padding) for x in (theirs, own)]
        logits = sides[1].requires_grad_()
        values = loss._divergences(DecoderOutput(logits, targets, targets), sides[0])
        (gradient,) = torch.autograd.grad(values.sum(), logits)
        assert values.isfinite().all() and gradient[targets != -100].isfinite().all()
        found.append((values, gradient[targets != -100]))
    assert_close(found[0], found[1], rtol=0, atol=0)


@pytest.mark.parametrize("collapsed", [False, True])
@pytest.mark.parametrize("scale", [0.0, 1e4, 1e8])
def test_certain_distributions_diverge_by_finite_amounts(collapsed: bool, scale: float) -> None:
    """Logits that are far apart: probabilities of exactly zero on either side."""
    student, wanted = (
        side._replace(encoder=(scale * side.encoder).detach().float(), joiner=sharp(side, scale))
        for side in (STUDENT, TEACHER)
    )
    student = student._replace(encoder=student.encoder.requires_grad_())
    losses = cell_divergence(student, wanted, TOKENS, TOKEN_LENS, BAND, collapsed=collapsed)
    losses.sum().backward()
    assert losses.isfinite().all() and student.encoder.grad.isfinite().all()


def sharp(side: Any, scale: float) -> Callable[..., Tensor]:
    """The joiner with logits `scale` times as large."""

    class Sharp(nn.Module):
        project_encoder = nn.Identity()
        project_predictor = nn.Identity()

        def forward(self, encoder: Tensor, predictor: Tensor) -> Tensor:
            x = side.joiner.project_encoder(encoder.double())
            return scale * side.joiner(x, side.joiner.project_predictor(predictor)).float()

    return Sharp()
