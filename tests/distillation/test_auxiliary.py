"""Auxiliary branches in an objective: what they are taught, and that they leave no trace."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from mvqkd.checkpoints.files import epoch_path, load_checkpoint, step_path
from mvqkd.distillation.auxiliary import AuxiliaryLayers
from mvqkd.distillation.encoder_teacher import EncoderTeacher
from mvqkd.distillation.imitation import feature_loss, future_loss
from mvqkd.distillation.relations import relation_loss
from mvqkd.models import ConformerEncoder
from mvqkd.models.auxiliary_branch import AuxiliaryBranch
from mvqkd.runtime.distributed import World
from mvqkd.runtime.interruption import Interruption
from mvqkd.training.objective import Objective
from tests.training.helpers import (
    BINS,
    assert_same,
    make_batch,
    make_objective,
    make_trainer,
    make_updater,
    weights,
)
from tests.training.test_resume import StopAfter

PAIRS = [(1, 1), (3, 2)]


def encoder(**options: Any) -> ConformerEncoder:
    """Of the teacher: deeper and wider than the student, with more heads."""
    torch.manual_seed(5)
    sizes = {"dim": 24, "num_layers": 3, "num_heads": 4, "feedforward_dim": 32, "conv_kernel": 3}
    return ConformerEncoder(input_dim=BINS, subsampling_channels=4, **{**sizes, **options})


def auxiliary(*, dropout: float = 0.0, num_heads: int = 4, **options: Any) -> AuxiliaryLayers:
    torch.manual_seed(6)
    shift = options.get("shift", 2)
    predicts = options.pop("predicts", options.get("future_weight", 1) > 0)
    branches = [
        AuxiliaryBranch(
            input_dim=16,
            dim=24,
            num_heads=num_heads,
            feedforward_dim=16,
            dropout=dropout,
            gap=shift if predicts else 0,
            predicts=predicts,
        )
        for _ in PAIRS
    ]
    teacher = EncoderTeacher(encoder(), [layer for layer, _ in PAIRS])
    return AuxiliaryLayers(PAIRS, branches, teacher, **{"shift": 2, **options})


def student(loss: AuxiliaryLayers | None = None, **options: Any) -> Objective:
    """A streaming one."""
    return make_objective(
        distillation={} if loss is None else {"layers": loss},
        causal=True,
        chunk_sizes=[2],
        left_context=4,
        **options,
    )


class Calls:
    """A teacher that is watched."""

    def __init__(self, teacher: EncoderTeacher) -> None:
        self.teacher, self.context, self.taps = teacher, [], []

    def __call__(self, context):
        self.context.append(context)
        found = self.teacher(context)
        self.taps.append(found.taps)
        return found


def test_is_the_sum_of_three_losses_of_every_pair() -> None:
    loss = auxiliary(feature_weight=0.3, relation_weight=0.2, future_weight=0.1)
    loss.teacher = Calls(loss.teacher)
    objective, batch = student(loss).eval(), make_batch("a", "b")
    found = objective(batch, chunk_size=2).components["layers"]
    (context,), (taps,) = loss.teacher.context, loss.teacher.taps
    wanted = torch.zeros(())
    for (layer, own), branch in zip(PAIRS, loss.branches, strict=True):
        made = branch(context.taps[f"layers.{own}"], context.lens)
        h, lens = taps[f"layers.{layer}"], context.lens
        wanted = wanted + 0.3 * feature_loss(made.out, h, lens).sum()
        wanted = wanted + 0.1 * future_loss(made.future, h, lens, 2).sum()
        for part in ("query", "key", "value"):
            one, other = made.taps[f"attention.{part}"], taps[f"layers.{layer}.{part}"]
            wanted = wanted + 0.2 * relation_loss(one, other, lens).sum()
    assert_close(found, wanted.detach())


def test_the_teacher_sees_the_whole_utterance_without_noise_and_masks() -> None:
    teacher = Calls(auxiliary().teacher)
    loss = auxiliary()
    loss.teacher = teacher
    objective, batch = student(loss), make_batch("a", "b")
    objective(batch, features=torch.zeros_like(batch.features), chunk_size=2)
    noisy = replace(batch, features=batch.features + 1, clean=batch.features, noisy=True)
    objective(noisy, chunk_size=2)
    reference = encoder()
    out = {}
    for layer, _ in PAIRS:  # the output of an encoder of as many layers, full context
        reference.layers = encoder().layers[:layer]
        out[layer], lens = reference.eval()(batch.features, batch.feature_lens)
    assert len(teacher.taps) == 2  # once a batch, for all layers
    for taps in teacher.taps:
        for layer, value in out.items():
            for n, length in enumerate(lens.tolist()):
                assert_close(taps[f"layers.{layer}"][n, :length], value[n, :length])


def test_views_of_an_utterance_have_one_teacher() -> None:
    loss = auxiliary()
    loss.teacher = teacher = Calls(loss.teacher)
    objective, batch = student(loss), make_batch("a", "b")
    once = objective(batch, chunk_size=2).components["layers"]
    assert_close(objective(batch.repeat(2), chunk_size=2).components["layers"], 2 * once)
    for name in teacher.taps[0]:
        assert_close(teacher.taps[1][name], torch.cat([teacher.taps[0][name]] * 2))


def test_other_utterances_and_padding_change_nothing() -> None:
    objective = student(auxiliary()).eval()

    def loss(*names: str) -> torch.Tensor:
        return objective(make_batch(*names), chunk_size=2).components["layers"]

    assert_close(loss("a", "b", "hello"), sum(loss(name) for name in ("a", "b", "hello")))


@pytest.mark.parametrize("frames", [7, 8, 13])
def test_utterances_of_a_frame_or_two(frames: int) -> None:
    losses = student(auxiliary(shift=9))(make_batch("a", frames=frames, tokens=1), chunk_size=2)
    losses.distillation.backward()
    assert 0 < losses.components["layers"] < 10


def test_the_student_is_the_plain_one() -> None:
    loss, plain = auxiliary(), student()
    with_branches = student(loss)
    shapes = [
        {name: value.shape for name, value in objective.model.state_dict().items()}
        for objective in (plain, with_branches)
    ]
    assert shapes[0] == shapes[1]
    trained = sum(p.numel() for p in with_branches.parameters())
    branches = sum(p.numel() for p in loss.branches.parameters())
    assert trained == sum(p.numel() for p in plain.parameters()) + branches
    assert not any("teacher" in name for name in with_branches.state_dict())
    assert all(not p.requires_grad for p in loss.teacher.encoder.parameters())
    with_branches.train()
    assert not loss.teacher.encoder.training


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("alone", ["feature", "relation", "future", ""])
def test_every_parameter_has_a_gradient_whichever_losses_are_on(alone, labelled) -> None:
    """DistributedDataParallel waits for all."""
    names = ("feature_weight", "relation_weight", "future_weight")
    options = {name: float(not alone or name.startswith(alone)) for name in names}
    objective = student(auxiliary(**options))
    losses = objective(make_batch("a", "b", labelled=labelled), chunk_size=2)
    on = [name.removesuffix("_weight") for name, weight in options.items() if weight]
    assert [x for x in losses.components if "layers" in x] == [
        "layers",
        *(f"layers.{part}" for part in on),
    ]
    assert set(losses.components) <= set(objective.components)
    if len(on) == 1:  # alone, with a weight of 1
        assert_close(losses.components[f"layers.{alone}"], losses.components["layers"])
    losses.total().backward()
    for name, parameter in objective.named_parameters():
        assert parameter.grad is not None, name
    moved = {name for name, p in objective.named_parameters() if p.grad.any()}
    assert any(name.startswith("model.encoder.layers.1") for name in moved)
    assert labelled or not any(name.startswith(("model.transducer", "model.ctc")) for name in moved)
    assert any("lstm" in name for name in moved) == (options["future_weight"] > 0)


def test_branches_that_predict_for_no_loss_have_gradients() -> None:
    objective = student(auxiliary(predicts=True, future_weight=0.0))
    objective(make_batch("a", "b"), chunk_size=2).total().backward()
    assert all(parameter.grad is not None for parameter in objective.parameters())


def test_layers_at_half_the_rate_give_each_frame_twice() -> None:
    loss = auxiliary()
    half = encoder(half_rate=[2, 3])
    loss.teacher = Calls(EncoderTeacher(half, [layer for layer, _ in PAIRS]))
    objective, batch = student(loss).eval(), make_batch("a", frames=47, tokens=1)
    found = objective(batch, chunk_size=2)
    assert 0 < found.components["layers"] < 100
    (taps,) = loss.teacher.taps
    frames = int(found.frames)
    assert frames % 2 and taps["layers.3.key"].shape == (1, 4, frames, 6)
    assert torch.equal(taps["layers.3.key"][:, :, :-1:2], taps["layers.3.key"][:, :, 1::2])


def test_branches_of_other_heads_are_compared() -> None:
    losses = student(auxiliary(num_heads=3))(make_batch("a"), chunk_size=2)
    assert losses.components["layers"] > 0


def test_the_student_learns_from_audio_without_transcripts() -> None:
    objective = student(auxiliary())
    batch = make_batch("a", "b", labelled=False)
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.01)
    history = []
    for _ in range(40):
        optimizer.zero_grad()
        losses = objective(batch, chunk_size=2)
        losses.total().backward()
        optimizer.step()
        history.append(float(losses.components["layers"]))
    assert history[-1] < 0.6 * history[0]


def test_a_step_in_bfloat16_is_near(tmp_path: Path) -> None:
    found = {}
    for precision in ("float32", "bfloat16"):
        updater = make_updater(student(auxiliary()), tmp_path, precision=precision)
        batch = make_batch("a", "b")
        update = updater.update([batch], step=9, frames=20, labelled_frames=20, learning_rate=0.0)
        found[precision] = (update.sums.over(World(), ["layers"])["layers"], update.grad_norm)
    assert found["bfloat16"] == pytest.approx(found["float32"], rel=0.05)


def test_a_step_does_not_depend_on_its_division(tmp_path: Path) -> None:
    steps = [[make_batch("a", "hello")], [make_batch("a"), make_batch("hello")]]
    norms = []
    for batches in steps:
        updater = make_updater(student(auxiliary()), tmp_path)
        update = updater.update(batches, step=1, frames=20, labelled_frames=20, learning_rate=0.0)
        norms.append(update.grad_norm)
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_training_that_is_resumed_equals_one_that_was_not(tmp_path: Path) -> None:
    def trainer(folder: str, **options: Any):
        loss = auxiliary(dropout=0.2)
        return make_trainer(
            tmp_path / folder, objective=student(loss, dropout=0.2, seed=3), **options
        )

    whole = trainer("whole")
    assert whole.run(Interruption())
    for steps in (1, 3):
        trainer("parts").run(StopAfter(steps))
    resumed = trainer("parts")
    assert resumed.run(Interruption())
    assert resumed.progress.step == whole.progress.step == 6
    assert_same(weights(resumed.updater.objective), weights(whole.updater.objective))
    # Branches are in checkpoints, from which training goes on, and in no weights of an epoch.
    plain = student().model.state_dict().keys()
    for epoch in (1, 2):
        one, other = (
            load_checkpoint(epoch_path(tmp_path / folder, epoch)) for folder in ("whole", "parts")
        )
        for kind in ("model", "average"):
            assert_same(one[kind], other[kind])
            assert one[kind].keys() == plain
    saved = load_checkpoint(step_path(tmp_path / "parts", 6))
    assert saved["objective"].keys() == resumed.updater.objective.state_dict().keys()
    assert any("branches" in name for name in saved["objective"])


def test_wrong_parts_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown taps"):
        EncoderTeacher(encoder(), [4])
    silent = auxiliary(future_weight=0.0)
    with pytest.raises(ValueError, match="branches that predict"):
        AuxiliaryLayers(PAIRS, list(silent.branches), silent.teacher)
    with pytest.raises(ValueError, match="2 branches for 1 pairs"):
        AuxiliaryLayers(PAIRS[:1], list(silent.branches), silent.teacher, future_weight=0.0)
