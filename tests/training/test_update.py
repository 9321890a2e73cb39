"""Updates: equal to those of one big batch, in any precision, and safe from bad values."""

from __future__ import annotations

import dataclasses
import logging
import os
import socket
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
from mvqkd.training.metrics import read_metrics
from tests.training.helpers import (
    FixedBatches,
    TapLoss,
    assert_same,
    make_batch,
    make_objective,
    make_trainer,
    make_updater,
    some_batches,
    weights,
)


def _frames(objective, batches):
    encoder = objective.model.encoder
    return float(sum(encoder.output_lens(batch.feature_lens).sum() for batch in batches))


def _update(batches, tmp_path, *, step=1, objective=None, **options):
    objective = objective or make_objective(**options.pop("objective_options", {}))
    updater = make_updater(objective, tmp_path, **options)
    frames = _frames(objective, batches)
    return objective, updater.update(batches, step=step, frames=frames, learning_rate=0.01)


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
    frames = _frames(objective, some_batches(1))
    update = updater.update(some_batches(1), step=1, frames=frames, learning_rate=0.01)
    assert update.sums is not None
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in objective.parameters())
    with torch.autocast("cpu", dtype=getattr(torch, precision)):
        losses = objective(some_batches(1)[0])
    assert losses.total.dtype == torch.float32
    assert {part.dtype for part in losses.components.values()} == {torch.float32}
    exact = objective(some_batches(1)[0])
    assert_close(losses.total, exact.total, rtol=0.02, atol=0.02)
    assert losses.total != exact.total


def test_overflow_of_float16_lowers_the_scale_and_blames_nobody(tmp_path):
    objective = make_objective()
    before = weights(objective)
    updater = make_updater(objective, tmp_path, precision="float16")
    updater.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)
    batches = some_batches(1)
    update = updater.update(batches, step=1, frames=_frames(objective, batches), learning_rate=0.01)
    assert update.sums is None and update.nonfinite_ids == []
    assert updater.scaler.get_scale() == 2.0**119
    assert_same(weights(objective), before)


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
        trainer = make_trainer(tmp_path / "one", train=FixedBatches([*some_batches(), _spoiled()]))
        assert trainer.run(Interruption())
    assert trainer.progress.nonfinite == 2  # one in each epoch
    assert "bad" in caplog.text
    lines = read_metrics(tmp_path / "one" / "log" / "metrics.jsonl")
    assert all(line["loss"] is not None for line in lines)
    trainer = make_trainer(tmp_path / "two", train=FixedBatches([_spoiled()]), max_nonfinite=1)
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


def test_gradient_is_clipped(tmp_path):
    _, free = _update(some_batches(1), tmp_path, clip_grad_norm=0.0)
    objective, clipped = _update(some_batches(1), tmp_path, clip_grad_norm=0.01)
    assert clipped.grad_norm == pytest.approx(free.grad_norm)
    assert clipped.clip_factor == pytest.approx(0.01 / free.grad_norm, rel=1e-3)
    norms = [p.grad.norm() for p in objective.parameters()]
    assert float(torch.stack(norms).norm()) == pytest.approx(0.01, rel=1e-3)


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


class _WithMore(FixedBatches):
    """A batch more than the other process has."""

    def __iter__(self):
        yield from super().__iter__()
        yield make_batch("left over")


def _one_of_two(rank, port):
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OMP_NUM_THREADS="1",
    )  # fmt: skip
    return start_world("cpu")


def _free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def _process(rank, port, folder, shares, expected):
    """One of two: trains on its batches and compares with `expected`."""
    with _one_of_two(rank, port) as world:
        assert world.sum([rank + 1, 0.5]) == [3, 1]
        assert world.gather(rank) == [0, 1]
        for name, train in (
            ("even", FixedBatches),
            ("uneven", _WithMore if rank else FixedBatches),
        ):
            # Other initial weights: those of rank 0 count.
            objective = make_objective(seed=rank, distillation={"tap": TapLoss()})
            trainer = make_trainer(
                folder / name,
                world=world,
                objective=objective,
                train=train(shares[rank]),
                valid=[make_batch("v1"), make_batch("v2")][rank:],
                accumulate=2,
                num_epochs=1,
                updater_options={"optimizer": _sgd(objective)},
            )
            assert trainer.run(Interruption())
            for key, value in weights(objective).items():
                assert_close(value, expected[key], rtol=1e-5, atol=1e-5, msg=f"{name}: {key}")


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    """Steps of two batches on each process against steps of all four on one; when one process has
    less, in training or validation, all end together. Some batches have no transcripts."""
    batches = [
        make_batch(f"x{i}", f"y{i}", frames=30 + i, tokens=2 + i % 3, labelled=i % 4 != 1)
        for i in range(8)
    ]
    objective = make_objective(seed=0, distillation={"tap": TapLoss()})
    # Epoch 1's order of four batches is the same on both processes.
    order = torch.randperm(4, generator=torch.Generator().manual_seed(1)).tolist()
    updater = make_updater(objective, tmp_path, optimizer=_sgd(objective))
    for step in (1, 2):
        wanted = order[2 * step - 2 : 2 * step]
        group = [batches[4 * rank + i] for rank in (0, 1) for i in wanted]
        updater.update(group, step=step, frames=_frames(objective, group), learning_rate=0.01)
    arguments = (_free_port(), tmp_path, [batches[:4], batches[4:]], weights(objective))
    multiprocessing.spawn(_process, arguments, nprocs=2)


def _on_its_own_disk(rank, port, folder):
    """One of two machines: only the first one's disk has what the first one writes."""
    exp_dir = folder / f"machine-{rank}"
    with _one_of_two(rank, port) as world:
        assert make_trainer(exp_dir, world=world, num_epochs=1).run(Interruption())
        with pytest.raises(UserError, match="rank 0 at step 3, rank 1 at step 0") as error:
            make_trainer(exp_dir, world=world, num_epochs=2).run(Interruption())
        assert "shared by all machines" in error.value.remedy


@pytest.mark.slow
def test_machines_that_do_not_share_the_folder_do_not_go_on(tmp_path):
    multiprocessing.spawn(_on_its_own_disk, (_free_port(), tmp_path), nprocs=2)


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
        tmp_path, train=FixedBatches([batch]), valid=[batch, make_batch("v")], num_epochs=4
    )
    trainer.run(Interruption())
    lines = read_metrics(tmp_path / "log" / "metrics.jsonl")
    counts = [(line["kind"], line["num_ctc_unaligned"]) for line in lines]
    # Two steps in each interval of the log.
    assert counts == [("valid", 2), ("train", 4), ("valid", 2)] * 2
