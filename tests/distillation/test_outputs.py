"""Distillation of token probabilities in an objective."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from mvqkd.data.loading.hypotheses import Hypotheses
from mvqkd.distillation import OutputDistillation, OutputTeacher
from mvqkd.models import Joiner, StatelessPredictor, TransducerHead
from mvqkd.runtime.distributed import World
from mvqkd.training.objective import Objective
from tests.distillation.test_auxiliary import encoder
from tests.training.helpers import VOCAB, make_batch, make_objective, make_updater


def teacher() -> OutputTeacher:
    """Of another width and depth than the student."""
    own = encoder()
    torch.manual_seed(7)
    head = TransducerHead(
        StatelessPredictor(vocab_size=VOCAB, dim=12),
        Joiner(encoder_dim=24, predictor_dim=12, joiner_dim=20, vocab_size=VOCAB),
    )
    return OutputTeacher(own, head)


def student(**options: Any) -> Objective:
    loss = OutputDistillation(teacher(), weight=1.0, **options)
    return make_objective(
        distillation={"outputs": loss}, causal=True, chunk_sizes=[2], left_context=4
    )


def distributions(objective: Objective, name: str, *, full: bool):
    """(T, U + 1, V) of the whole lattice of an utterance, of the student or the teacher."""
    batch = make_batch(name)
    source = objective.distillation["outputs"].teacher if full else objective.model
    head = source.head if full else source.transducer
    options = {} if full else {"chunk_size": 2, "left_context": 4}
    out, _ = source.encoder(batch.features, batch.feature_lens, **options)
    predicted = head.predictor(F.pad(batch.hypotheses.tokens, (1, 0)))
    joiner = head.joiner
    encoded, predicted = joiner.project_encoder(out), joiner.project_predictor(predicted)
    return joiner(encoded[0, :, None], predicted[0, None]).log_softmax(2)


@pytest.mark.parametrize("delay", [0, 2])
def test_is_the_divergence_within_the_band(delay: int) -> None:
    objective = student(delay=delay).eval()
    # A band of all four positions: the whole lattice.
    objective.head_losses["transducer"].pruned.prune_range = 4
    found = objective(make_batch("a"), chunk_size=2).components["outputs"]
    q, p = (distributions(objective, "a", full=full) for full in (False, True))
    wanted = (p.exp()[: len(p) - delay] * (p[: len(p) - delay] - q[delay:])).sum()
    assert_close(found, wanted.detach())


@pytest.mark.parametrize("options", [{}, {"best_path": True}, {"collapsed": True, "delay": 1}])
def test_other_utterances_and_padding_change_nothing(options) -> None:
    objective = student(**options).eval()

    def loss(*names: str) -> torch.Tensor:
        return objective(make_batch(*names), chunk_size=2).components["outputs"]

    assert_close(loss("a", "b", "hello"), sum(loss(name) for name in ("a", "b", "hello")))
    assert loss("a") > 0


def test_the_best_path_is_a_path_of_the_teacher() -> None:
    objective = student(best_path=True).eval()
    found = objective(make_batch("a"), chunk_size=2).components["outputs"]
    q, p = (distributions(objective, "a", full=full).detach() for full in (False, True))
    tokens = make_batch("a").hypotheses.tokens[0].tolist()

    def walk(t: int, u: int) -> tuple[float, float]:
        """Score of the best path from a cell on, and the divergence along it."""
        if t == len(p):
            return (0.0 if u == len(tokens) else -1e9), 0.0
        moves = [(t + 1, u, 0)] + ([(t, u + 1, tokens[u])] if u < len(tokens) else [])
        ways = []
        for after_t, after_u, k in moves:
            score, divergence = walk(after_t, after_u)
            ways.append((score + float(p[t, u, k]), divergence))
        score, divergence = max(ways)
        return score, divergence + float((p[t, u].exp() * (p[t, u] - q[t, u])).sum())

    assert float(found) == pytest.approx(walk(0, 0)[1], rel=1e-4)


def test_the_teacher_receives_the_features_without_noise_and_masks() -> None:
    objective, batch = student().eval(), make_batch("a", "b")
    clean = objective(batch, chunk_size=2).components["outputs"]
    noisy = replace(batch, features=batch.features + 1, clean=batch.features, noisy=True)
    features = batch.features
    assert_close(objective(noisy, features=features, chunk_size=2).components["outputs"], clean)
    assert_close(objective(batch.repeat(2), chunk_size=2).components["outputs"], 2 * clean)


def test_hypotheses_count_with_their_weights() -> None:
    objective, batch = student().eval(), make_batch("a", "b")
    once = objective(batch, chunk_size=2).components["outputs"]
    text = batch.hypotheses
    both = Hypotheses(
        tokens=text.tokens.repeat(2, 1),
        lens=text.lens.repeat(2),
        owners=text.owners.repeat(2),
        weights=torch.tensor([0.7, 0.7, 0.2, 0.2]),
        one_each=False,
    )
    twice = objective(replace(batch, hypotheses=both), chunk_size=2).components["outputs"]
    assert_close(twice, 0.9 * once)


def test_there_is_nothing_without_transcripts() -> None:
    objective = student()
    losses = objective(make_batch("a", labelled=False), chunk_size=2)
    assert "outputs" not in losses.components
    losses.total().backward()
    assert all(p.grad is not None for p in objective.parameters())


def test_the_teacher_leaves_no_trace_and_the_student_learns() -> None:
    objective = student(collapsed=True)
    assert not any("teacher" in name for name in objective.state_dict())
    head = objective.distillation["outputs"].teacher.head
    assert not any(p.requires_grad for p in head.parameters())
    batch, history = make_batch("a", "b"), []
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.01)
    for _ in range(25):
        optimizer.zero_grad()
        losses = objective(batch, chunk_size=2, step=100)
        (losses.distillation / losses.frames).backward()
        optimizer.step()
        history.append(float(losses.components["outputs"]))
    assert history[-1] < 0.5 * history[0]


def test_a_step_in_bfloat16_is_near(tmp_path: Path) -> None:
    found = {}
    for precision in ("float32", "bfloat16"):
        updater = make_updater(student(), tmp_path, precision=precision)
        batch = make_batch("a", "b")
        update = updater.update([batch], step=9, frames=20, labelled_frames=20, learning_rate=0.0)
        found[precision] = update.sums.over(World(), ["outputs"])["outputs"]
    assert found["bfloat16"] == pytest.approx(found["float32"], rel=0.05)
