"""Validation on other data than that which chooses the best weights."""

from __future__ import annotations

import pytest
import torch

from mvqkd.checkpoints import files as checkpoint
from mvqkd.checkpoints.pretrained import begin_with
from mvqkd.runtime.distributed import World
from mvqkd.runtime.interruption import Interruption
from mvqkd.training.metrics import read_metrics
from mvqkd.training.trainer import Trainer
from mvqkd.training.validation import validate
from tests.training.helpers import (
    FixedSteps,
    make_batch,
    make_objective,
    make_trainer,
    some_batches,
    weights,
)
from tests.training.test_resume import StopAfter

OTHER = {"old/dev": [make_batch("o1", "o2")], "older/dev": [make_batch("p")]}


def with_others(exp_dir, others=OTHER) -> Trainer:
    trainer = make_trainer(exp_dir)
    trainer._other_valid = others
    return trainer


def losses(exp_dir, kind: str) -> dict[int, float]:
    lines = read_metrics(exp_dir / "log" / "metrics.jsonl")
    return {line["step"]: line["recognition_loss"] for line in lines if line["kind"] == kind}


def test_each_is_logged_by_name_before_and_after_epochs(tmp_path) -> None:
    trainer = with_others(tmp_path)
    before = {
        name: validate(
            trainer.updater.objective, batches, world=World(), autocast=trainer.updater.autocast
        )[0]["recognition_loss"]
        for name, batches in OTHER.items()
    }
    assert trainer.run(Interruption())
    for name in OTHER:
        found = losses(tmp_path, f"valid/{name}")
        assert list(found) == [0, 3, 6]
        assert found[0] == pytest.approx(before[name], rel=1e-6)
        assert len(set(found.values())) == 3
    assert list(losses(tmp_path, "valid")) == [0, 3, 6]


def test_training_and_best_weights_are_the_same_without(tmp_path) -> None:
    alone = make_trainer(tmp_path / "alone")
    trainer = with_others(tmp_path / "others")
    assert alone.run(Interruption()) and trainer.run(Interruption())
    for name, value in weights(alone.updater.objective).items():
        assert torch.equal(value, weights(trainer.updater.objective)[name])
    best, other = (
        checkpoint.load_checkpoint(tmp_path / folder / checkpoint.BEST)
        for folder in ("alone", "others")
    )
    assert best["step"] == other["step"]
    assert list(losses(tmp_path / "alone", "valid")) == [3, 6]


def test_first_losses_of_a_fine_tuning_are_the_last_of_the_training_before(tmp_path) -> None:
    assert make_trainer(tmp_path / "source").run(Interruption())
    objective = make_objective(seed=5, dropout=0.2)
    begin_with(
        objective.model, tmp_path / "source" / "epoch-2.pt", head_losses=objective.head_losses
    )
    tuned = make_trainer(tmp_path / "tuned", objective=objective)
    tuned._other_valid = OTHER
    assert tuned.run(Interruption())
    last, first = (
        next(line for line in read_metrics(tmp_path / folder / "log/metrics.jsonl")[::order]
             if line["kind"] == "valid")
        for folder, order in (("source", -1), ("tuned", 1))
    )  # fmt: skip
    assert (last["step"], first["step"]) == (6, 0)
    names = {"loss", "simple", "pruned", "ctc"}
    assert {name: first[name] for name in names} == {name: last[name] for name in names}


def test_weights_to_begin_with_are_never_the_best(tmp_path) -> None:
    trainer = make_trainer(tmp_path, learning_rate=lambda step, total: 1.0)  # spoils them
    trainer._other_valid = OTHER
    trainer.run(Interruption())
    found = losses(tmp_path, "valid")
    assert found[0] < min(found[3], found[6])
    assert checkpoint.load_checkpoint(tmp_path / checkpoint.BEST)["step"] in (3, 6)


def test_stopped_and_resumed_it_validates_once_at_each_step(tmp_path) -> None:
    steps = FixedSteps(some_batches())
    for stop in (1, 1, 2):
        trainer = make_trainer(tmp_path, train=steps)
        trainer._other_valid = OTHER
        trainer.run(StopAfter(stop))
    trainer = make_trainer(tmp_path, train=steps)
    trainer._other_valid = OTHER
    assert trainer.run(Interruption())
    lines = [x for x in read_metrics(tmp_path / "log" / "metrics.jsonl") if "old/dev" in x["kind"]]
    assert [line["step"] for line in lines] == [0, 3, 6]


def test_begun_again_it_has_one_beginning(tmp_path) -> None:
    for _ in range(2):  # the first was killed before its first checkpoint
        trainer = with_others(tmp_path)
        trainer.run(Interruption())
        for path in tmp_path.glob("checkpoint-*.pt"):
            path.unlink()
    lines = [x for x in read_metrics(tmp_path / "log" / "metrics.jsonl") if x["kind"] == "valid"]
    assert [line["step"] for line in lines] == [0, 3, 6]
