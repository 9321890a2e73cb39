"""Updates: equal to those of one big batch, in any precision, and safe from bad values."""

from __future__ import annotations

import dataclasses
import logging
import math
import statistics
from contextlib import nullcontext

import pytest
import torch
import torch.multiprocessing as multiprocessing
from torch.testing import assert_close

from mvqkd.data.loading.hypotheses import Hypotheses
from mvqkd.errors import UserError
from mvqkd.features.spec_augment import SpecAugment
from mvqkd.runtime.distributed import World, start_world
from mvqkd.runtime.interruption import Interruption
from mvqkd.training.clipping import GradientClipper
from mvqkd.training.heads import CTCHeadLoss
from mvqkd.training.metrics import read_metrics
from tests.training.helpers import (
    FixedSteps,
    TapLoss,
    assert_same,
    free_port,
    make_batch,
    make_objective,
    make_trainer,
    make_updater,
    one_of_two,
    some_batches,
    weights,
)


def _amounts(objective, batches):
    """Arguments of `Updater.update` of a step that holds these batches."""
    encoder = objective.model.encoder
    frames = [float(encoder.output_lens(batch.feature_lens).sum()) for batch in batches]
    labelled = [n for n, batch in zip(frames, batches, strict=True) if batch.labelled]
    return {"frames": sum(frames), "labelled_frames": sum(labelled), "learning_rate": 0.01}


def _update(batches, tmp_path, *, step=1, objective=None, **options):
    objective = objective or make_objective(**options.pop("objective_options", {}))
    updater = make_updater(objective, tmp_path, **options)
    return objective, updater.update(batches, step=step, **_amounts(objective, batches))


def _spoiled():
    batch = make_batch("bad", "good")
    batch.features[1, 3, 5] = float("nan")
    return batch


def test_accumulated_batches_equal_one_big_batch(tmp_path):
    small = [make_batch("a", "b", "c", frames=50), make_batch("d", tokens=5)]
    big = make_batch("a", "b", "c", frames=50)
    big = _joined(big, small[1])
    one, update_of_one = _update([big], tmp_path)
    many, update_of_many = _update(small, tmp_path)
    for name, parameter in one.named_parameters():
        assert_close(dict(many.named_parameters())[name].grad, parameter.grad, rtol=1e-4, atol=1e-6)
    assert update_of_many.grad_norm == pytest.approx(update_of_one.grad_norm, rel=1e-5)


def _joined(left, right):
    """Both batches in one, padded."""

    def pad(tensor, length, value):
        extra = length - tensor.shape[1]
        shape = (tensor.shape[0], extra, *tensor.shape[2:])
        return torch.cat([tensor, torch.full(shape, value, dtype=tensor.dtype)], dim=1)

    frames = max(left.features.shape[1], right.features.shape[1])
    length = max(x.hypotheses.tokens.shape[1] for x in (left, right))
    tokens = torch.cat([pad(x.hypotheses.tokens, length, -100) for x in (left, right)])
    lens = torch.cat([x.hypotheses.lens for x in (left, right)])
    return dataclasses.replace(
        left,
        ids=left.ids + right.ids,
        texts=left.texts + right.texts,
        features=torch.cat([pad(x.features, frames, -23.0) for x in (left, right)]),
        feature_lens=torch.cat([left.feature_lens, right.feature_lens]),
        hypotheses=Hypotheses(
            tokens, lens, torch.arange(len(lens)), torch.ones(len(lens)), one_each=True
        ),
        seconds=left.seconds + right.seconds,
    )


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_reduced_precision_has_float32_losses(tmp_path, precision):
    objective = make_objective()
    updater = make_updater(objective, tmp_path, precision=precision)
    if precision == "float16":  # the usual one overflows at first
        updater.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    update = updater.update(some_batches(1), step=1, **_amounts(objective, some_batches(1)))
    assert update.sums is not None
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in objective.parameters())
    with torch.autocast("cpu", dtype=getattr(torch, precision)):
        losses = objective(some_batches(1)[0])
    assert losses.total().dtype == torch.float32
    assert {part.dtype for part in losses.components.values()} == {torch.float32}
    exact = objective(some_batches(1)[0])
    assert_close(losses.total(), exact.total(), rtol=0.02, atol=0.02)
    assert losses.total() != exact.total()


def test_overflow_of_float16_lowers_the_scale_and_blames_nobody(tmp_path):
    objective = make_objective()
    before = weights(objective)
    updater = make_updater(objective, tmp_path, precision="float16")
    updater.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)
    batches = some_batches(1)
    update = updater.update(batches, step=1, **_amounts(objective, batches))
    assert update.sums is None and update.nonfinite_ids == []
    assert updater.scaler.get_scale() == 2.0**119
    assert_same(weights(objective), before)


def test_two_views_that_are_alike_are_one(tmp_path):
    """Every loss is a mean over frames, those of all views."""

    def update(views):
        batches = [make_batch("a", "b", "c"), make_batch("d", labelled=False)]
        objective = make_objective(distillation={"tap": TapLoss()})
        return _update(batches, tmp_path, objective=objective, views=views)

    (one, update_of_one), (two, update_of_two) = update(1), update(2)
    for name, parameter in one.named_parameters():
        assert_close(dict(two.named_parameters())[name].grad, parameter.grad, rtol=1e-4, atol=1e-6)
    assert update_of_two.grad_norm == pytest.approx(update_of_one.grad_norm, rel=1e-5)


def test_views_are_augmented_differently_and_made_consistent(tmp_path):
    objective = make_objective()
    objective.head_losses["ctc"] = CTCHeadLoss(weight=0.2, consistency_weight=0.5)
    augment = SpecAugment(time_mask_size=10, frequency_mask_size=8, probability=1.0)
    updater = make_updater(objective, tmp_path, augment=augment, views=2)
    batch = make_batch("a", "b")
    amounts = _amounts(objective, [batch])
    sums = updater.update([batch], step=1, **amounts).sums.over(World(), objective.components)
    assert sums["consistency"] > 1e-4
    assert sums["frames"] == 2 * amounts["frames"]
    # In validation there is one view, and nothing to be consistent with.
    assert "consistency" not in objective.eval()(batch).components


@pytest.mark.parametrize("accumulated", [False, True])
def test_values_that_are_not_finite_change_nothing_and_are_named(tmp_path, accumulated):
    objective = make_objective()
    before = weights(objective)
    batches = [make_batch("fine"), _spoiled()] if accumulated else [_spoiled()]
    _, update = _update(batches, tmp_path, objective=objective)
    assert update.sums is None
    assert sorted(update.nonfinite_ids) == ["bad", "good"]
    assert_same(weights(objective), before)
    (kept,) = tmp_path.glob("nonfinite-step1-*.pt")
    assert torch.load(kept, weights_only=True)["ids"] == update.nonfinite_ids


def test_utterance_without_frames_is_not_silently_infinite(tmp_path):
    batch = make_batch("short", frames=40)
    batch.feature_lens[:] = 5
    _, update = _update([batch], tmp_path, objective_options={"ctc_scale": 0.0})
    assert update.nonfinite_ids == ["short"]


def test_training_goes_on_after_a_bad_batch_and_stops_after_too_many(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        trainer = make_trainer(tmp_path / "one", train=FixedSteps([*some_batches(), _spoiled()]))
        assert trainer.run(Interruption())
    assert trainer.progress.nonfinite == 2  # one in each epoch
    assert "bad" in caplog.text
    lines = read_metrics(tmp_path / "one" / "log" / "metrics.jsonl")
    assert all(line["loss"] is not None for line in lines)
    trainer = make_trainer(tmp_path / "two", train=FixedSteps([_spoiled()]), max_nonfinite=1)
    with pytest.raises(UserError, match="max_nonfinite"):
        trainer.run(Interruption())


def test_batch_that_breaks_the_model_is_kept(tmp_path, caplog):
    batch = make_batch("too wide")
    batch.features = batch.features[..., :5]
    with pytest.raises(ValueError, match="channels"), caplog.at_level(logging.ERROR):
        _update([batch], tmp_path)
    assert "too wide" in caplog.text
    kept = torch.load(tmp_path / "failed-step1-rank0.pt", weights_only=True)
    assert kept["ids"] == ["too wide"]
    assert torch.equal(kept["features"], batch.features)


def test_a_gradient_out_of_the_ordinary_is_clipped(tmp_path):
    objective = make_objective()
    updater = make_updater(objective, tmp_path, clip_grad_ratio=2.0, optimizer=_sgd(objective))
    batches = some_batches(1)
    amounts = _amounts(objective, batches)
    before = [updater.update(batches, step=step, **amounts) for step in range(1, 12)]
    assert {update.clip_factor for update in before} == {1.0}
    amounts["frames"], amounts["labelled_frames"] = 1.0, 1.0  # a gradient many times as large
    update = updater.update(batches, step=12, **amounts)
    limit = 2.0 * statistics.median(update.grad_norm for update in before)
    assert update.clip_factor == pytest.approx(limit / update.grad_norm, rel=1e-3)
    norms = torch.stack([p.grad.norm() for p in objective.parameters()])
    assert float(norms.norm()) == pytest.approx(limit, rel=1e-3)


def test_clipping_remembers_norms_of_late_and_none_that_are_not_finite():
    parameter = torch.nn.Parameter(torch.zeros(2))

    def clip(clipper, norm):
        parameter.grad = torch.tensor([norm, 0.0])
        return clipper([parameter])

    clipper = GradientClipper(3.0)
    for _ in range(9):
        assert clip(clipper, 1.0) == (1.0, 1.0)
    assert clip(clipper, 50.0) == (50.0, 1.0)  # too early to tell
    assert clip(clipper, 50.0) == (50.0, pytest.approx(3 / 50))
    assert not math.isfinite(clip(clipper, math.inf)[0])
    assert clipper.state == [1.0] * 9 + [50.0] * 2
    for _ in range(150):
        clip(clipper, 2.0)
    assert clipper.state == [2.0] * 100
    assert clip(GradientClipper(3.0, clipper.state), 12.0) == (12.0, pytest.approx(0.5))
    assert clip(GradientClipper(0.0, clipper.state), 1e6) == (1e6, 1.0)


def test_randomness_depends_on_the_step_and_not_on_history(tmp_path):
    options = {
        "augment": SpecAugment(time_mask_size=10, frequency_mask_size=4),
        "objective_options": {"dropout": 0.5, "causal": True, "chunk_sizes": [1, 2, 3, -1]},
    }
    one, _ = _update(some_batches(1), tmp_path, step=7, **options)
    torch.rand(5)
    same, _ = _update(some_batches(1), tmp_path, step=7, **options)
    other, _ = _update(some_batches(1), tmp_path, step=8, **options)
    assert_same(weights(one), weights(same))
    assert any(
        not torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True)
    )


def _sgd(objective):
    """Linear in the gradient: Adam would blow up rounding where the true gradient is zero."""
    return torch.optim.SGD(objective.parameters(), lr=0.01)


AUGMENT = {"time_mask_size": 10, "frequency_mask_size": 4}


def _train(folder, steps, world=None):
    """On one or two processes; dropout alone depends on how many there are."""
    # Other initial weights on each process: those of the first count.
    objective = make_objective(
        seed=world.rank if world else 0,
        distillation={"tap": TapLoss()},
        causal=True,
        chunk_sizes=[2, 4, -1],
    )
    trainer = make_trainer(
        folder,
        world=world,
        objective=objective,
        train=FixedSteps(steps),
        valid=[make_batch("v1"), make_batch("v2")][world.rank if world else 0 :],
        num_epochs=1,
        log_interval=1,
        updater_options={"optimizer": _sgd(objective), "augment": SpecAugment(**AUGMENT)},
    )
    assert trainer.run(Interruption())
    return trainer


def _process(rank, port, folder, shares, expected, losses):
    """One of two: trains on its shares of the steps and compares with what one process had."""
    with one_of_two(rank, port) as world:
        assert world.sum([rank + 1, 0.5]) == [3, 1]
        assert world.gather(rank) == [0, 1]
        trainer = _train(folder, shares[rank], world)
        for key, value in weights(trainer.updater.objective).items():
            assert_close(value, expected[key], rtol=1e-5, atol=1e-5, msg=key)
        if world.is_main:
            for line, wanted in zip(_losses(folder), losses, strict=True):
                assert line == pytest.approx(wanted, rel=1e-5)


def _losses(folder):
    lines = read_metrics(folder / "log" / "metrics.jsonl")
    names = ("loss", "recognition_loss", "pruned", "ctc", "tap")
    return [
        {name: line[name] for name in names if line.get(name) is not None}
        for line in lines
        if line["kind"] == "train"
    ]


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    """The same steps: of several batches on one process, shared by two; one of them may have less,
    or nothing at all. Some batches have no transcripts."""
    batches = [
        make_batch(f"x{i}", f"y{i}", frames=30 + i, tokens=2 + i % 3, labelled=i % 3 != 1)
        for i in range(8)
    ]
    shares = [
        [batches[0:2], batches[4:5], batches[6:7], batches[7:8]],
        [batches[2:4], batches[5:6], [], [make_batch("z", labelled=False)]],
    ]
    whole = [[*one, *other] for one, other in zip(*shares, strict=True)]
    alone = _train(tmp_path / "one", whole)
    expected = weights(alone.updater.objective)
    losses = _losses(tmp_path / "one")
    assert len(losses) == 4
    arguments = (free_port(), tmp_path / "two", shares, expected, losses)
    multiprocessing.spawn(_process, arguments, nprocs=2)


def _on_its_own_disk(rank, port, folder):
    """One of two machines: only the first one's disk has what the first one writes."""
    exp_dir = folder / f"machine-{rank}"
    with one_of_two(rank, port) as world:
        assert make_trainer(exp_dir, world=world, num_epochs=1).run(Interruption())
        with pytest.raises(UserError, match="rank 0 at step 3, rank 1 at step 0") as error:
            make_trainer(exp_dir, world=world, num_epochs=2).run(Interruption())
        assert "shared by all machines" in error.value.remedy


@pytest.mark.slow
def test_machines_that_do_not_share_the_folder_do_not_go_on(tmp_path):
    multiprocessing.spawn(_on_its_own_disk, (free_port(), tmp_path), nprocs=2)


@pytest.mark.parametrize(
    ("end", "together"), [(None, True), (SystemExit(75), True), (RuntimeError("of one"), False)]
)
def test_a_process_that_fails_does_not_wait_for_the_others(monkeypatch, end, together):
    """nccl's end of a group is one of all processes."""
    ended = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: ended.append(True))
    with pytest.raises(type(end)) if end else nullcontext(), start_world("cpu"):
        if end:
            raise end
    assert bool(ended) == together


def test_a_process_without_a_gpu_is_reported_in_words(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match=r"process 3 .* there are 2") as error:
        start_world("cuda").__enter__()
    assert "2 processes a machine" in error.value.remedy


def test_world_is_one_process_without_torchrun(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with start_world("cpu") as world:
        assert world == World(0, 1, torch.device("cpu"))


def test_utterances_without_a_ctc_alignment_are_counted_in_the_log(tmp_path):
    batch = make_batch("a", "b", "c", tokens=7)  # in 9 to 11 frames
    batch.hypotheses.tokens[:2] = 4  # needs 13
    batch.hypotheses.tokens[2] = torch.tensor([3, 4, 5, 3, 4, 5, 3])
    trainer = make_trainer(
        tmp_path, train=FixedSteps([batch]), valid=[batch, make_batch("v")], num_epochs=4
    )
    trainer.run(Interruption())
    lines = read_metrics(tmp_path / "log" / "metrics.jsonl")
    counts = [(line["kind"], line["num_ctc_unaligned"]) for line in lines]
    # Two steps in each interval of the log.
    assert counts == [("valid", 2), ("train", 4), ("valid", 2)] * 2
