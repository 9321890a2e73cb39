"""Two passes of one set of weights in an objective."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from mvqkd.distillation import DualMode
from mvqkd.losses.alignment_divergence import Arcs, alignment_divergence
from mvqkd.losses.cell_divergence import JoinerInput, cell_divergence
from mvqkd.losses.joint import band_log_probs
from mvqkd.training.objective import Objective
from tests.training.helpers import make_batch, make_objective

KINDS = [
    {"kind": "cells"},
    {"kind": "cells", "collapsed": True},
    {"kind": "lattice"},
]


class Watched(DualMode):
    context = None

    def forward(self, context):
        self.context = context
        return super().forward(context)


def student(full_context_weight: float = 1.0, **options: Any) -> Objective:
    return make_objective(
        distillation={"dual_mode": Watched(weight=1.0, **options)},
        causal=True,
        chunk_sizes=[2],
        left_context=4,
        full_context_weight=full_context_weight,
    )


@pytest.mark.parametrize("options", KINDS)
def test_directions(options) -> None:
    """One way, the pass with full context is imitated and gets no gradient; symmetric, each is."""
    objective, batch = student(**options).eval(), make_batch("a", "b")
    loss = objective.distillation["dual_mode"]
    one_way = objective(batch, chunk_size=2)
    context = loss.context
    found, text = context.transducer, batch.hypotheses
    chunks, full = (
        JoinerInput(x.taps["output"], found.predictor_out, found.joiner)
        for x in (context.encoded(), context.full_context())
    )

    def compare(student: JoinerInput, teacher: JoinerInput) -> torch.Tensor:
        if loss.kind == "cells":
            return cell_divergence(
                student, teacher, found.tokens, text.lens, found.band, collapsed=loss.collapsed
            ).sum()
        arcs = (Arcs(*band_log_probs(*x, found.tokens, found.band)) for x in (student, teacher))
        return alignment_divergence(*arcs, context.lens, text.lens).sum()

    forth, back = compare(chunks, full), compare(full, chunks)
    assert_close(one_way.components["dual_mode"], forth.detach())
    streamed, whole = (x.taps["output"] for x in (context.encoded(), context.full_context()))
    grads = torch.autograd.grad(one_way.distillation, [streamed, whole], allow_unused=True)
    assert grads[0].any() and grads[1] is None
    loss.symmetric = True
    both = objective(batch, chunk_size=2)
    assert_close(both.components["dual_mode"], ((forth + back) / 2).detach())
    context = loss.context
    streamed, whole = (x.taps["output"] for x in (context.encoded(), context.full_context()))
    grads = torch.autograd.grad(both.distillation, [streamed, whole])
    assert grads[0].any() and grads[1].any()


@pytest.mark.parametrize("options", KINDS)
def test_other_utterances_and_padding_change_nothing(options) -> None:
    objective = student(symmetric=True, **options).eval()

    def loss(*names: str) -> torch.Tensor:
        return objective(make_batch(*names), chunk_size=2).components["dual_mode"]

    assert_close(loss("a", "b", "hello"), sum(loss(name) for name in ("a", "b", "hello")))
    assert loss("a") > 0


def test_both_passes_are_trained_to_recognize() -> None:
    objective, batch = student(0.5, kind="cells").eval(), make_batch("a", "b")
    losses = objective(batch, chunk_size=2)
    plain = make_objective(causal=True, chunk_sizes=[2], left_context=4).eval()
    chunked, full = plain(batch, chunk_size=2), plain(batch)
    assert_close(losses.recognition, chunked.recognition + 0.5 * full.recognition)
    assert set(losses.components) == set(objective.components)
    for name, value in full.components.items():
        if not name.startswith("num_"):
            assert_close(losses.components[f"{name}_full_context"], value)
        assert_close(losses.components[name], chunked.components[name])


def test_passes_are_shared() -> None:
    objective, calls = student(kind="lattice"), []
    objective.model.encoder.register_forward_pre_hook(lambda *_: calls.append(1))
    objective(make_batch("a"), chunk_size=2)
    assert len(calls) == 2


def test_a_step_with_full_context_has_one_pass_and_no_divergence() -> None:
    objective, batch = student(), make_batch("a")
    losses = objective(batch)
    assert losses.components["dual_mode"] == 0
    assert "pruned_full_context" not in losses.components
    losses.total().backward()


def test_there_is_nothing_without_transcripts() -> None:
    losses = student()(make_batch("a", labelled=False), chunk_size=2)
    assert not losses.components
