"""A training that was stopped goes on as if it had not been."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from mvqkd.checkpoints import files as checkpoint
from mvqkd.errors import UserError
from mvqkd.features.spec_augment import SpecAugment
from mvqkd.runtime.distributed import World
from mvqkd.runtime.interruption import Interruption
from mvqkd.training import trainer
from mvqkd.training.metrics import read_metrics
from tests.training.helpers import (
    FixedSteps,
    assert_same,
    make_batch,
    make_objective,
    make_trainer,
    some_batches,
    weights,
)

WALL_TIME = {"elapsed", "x_real_time"}


class StopAfter(Interruption):
    """Asks to stop when it has been looked at `steps` times."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.left = steps

    @property
    def requested(self) -> bool:
        self.left -= 1
        return self.left < 0


def _trainer(exp_dir, **options):
    augment = SpecAugment(time_mask_size=10, frequency_mask_size=4)
    objective = make_objective(dropout=0.2, causal=True, chunk_sizes=[2, 4, -1], left_context=4)
    return make_trainer(
        exp_dir, objective=objective, updater_options={"augment": augment}, **options
    )


def _metrics(exp_dir):
    lines = read_metrics(exp_dir / "log" / "metrics.jsonl")
    return [{k: v for k, v in line.items() if k not in WALL_TIME} for line in lines]


@pytest.mark.parametrize("stops", [(1,), (2,), (3,), (5,), (1, 2)])
@pytest.mark.parametrize("batches", [1, 2])
def test_stopped_training_ends_as_one_that_never_stopped(tmp_path, stops, batches):
    steps = [some_batches(3)[i : i + batches] for i in range(0, 3, batches)]
    options = {"train": FixedSteps(steps), "valid_interval": 2}
    whole = _trainer(tmp_path / "whole", **options)
    assert whole.run(Interruption())
    assert whole.progress.step == (6 if batches == 1 else 4)

    resumed = None
    for stop in stops:
        resumed = _trainer(tmp_path / "parts", **options)
        resumed.run(StopAfter(stop))
    resumed = _trainer(tmp_path / "parts", **options)
    assert resumed.run(Interruption())

    assert resumed.progress.step == whole.progress.step
    assert_same(weights(resumed.updater.objective), weights(whole.updater.objective))
    assert _metrics(tmp_path / "parts") == _metrics(tmp_path / "whole")
    for name in ("epoch-1.pt", "epoch-2.pt", "best-valid-loss.pt"):
        one, other = (
            checkpoint.load_checkpoint(tmp_path / folder / name) for folder in ("whole", "parts")
        )
        for part in ("model", "head_losses", "average", "head_losses_average"):
            assert_same(one[part], other[part])
        assert one["average_count"] == other["average_count"]


def test_a_checkpoint_of_an_earlier_version_goes_on(tmp_path):
    """It has no average of the head losses, which goes on from their weights."""
    _trainer(tmp_path, num_epochs=1).run(Interruption())
    path = checkpoint.step_path(tmp_path, 3)
    state = checkpoint.load_checkpoint(path)
    count = state["average_count"]
    del state["head_losses_average"]
    checkpoint.save_checkpoint(path, state)
    longer = _trainer(tmp_path, num_epochs=2, learning_rate=lambda step, total: 0.0)
    longer.run(Interruption())
    found = checkpoint.load_checkpoint(tmp_path / "epoch-2.pt")
    assert found["average_count"] > count
    before = checkpoint.part_of(state["objective"], "head_losses.")
    assert found["head_losses_average"].keys() == before.keys() != set()
    for name, value in before.items():
        assert_close(found["head_losses_average"][name], value.double())


def test_training_that_is_lost_between_checkpoints_is_repeated(tmp_path):
    options = {"save_interval": 4, "valid_interval": 2}
    whole = _trainer(tmp_path / "whole", **options)
    whole.run(Interruption())

    killed = _trainer(tmp_path / "parts", **options)
    real_step = killed._step

    def step(*arguments):
        if killed.progress.step == 5:
            raise SystemExit("as if killed: no checkpoint is written")
        real_step(*arguments)

    killed._step = step
    with pytest.raises(SystemExit):
        killed.run(Interruption())
    assert checkpoint.steps(tmp_path / "parts") == [3, 4]
    resumed = _trainer(tmp_path / "parts", **options)
    resumed.run(Interruption())
    assert_same(weights(resumed.updater.objective), weights(whole.updater.objective))
    assert _metrics(tmp_path / "parts") == _metrics(tmp_path / "whole")


def test_a_validation_that_is_not_finite_is_not_the_best(tmp_path, monkeypatch):
    recognition = iter([math.nan, 3.0, math.nan, 2.0])
    total = iter([9.0, 1.0, 9.0, 5.0])  # with distillation: does not decide
    monkeypatch.setattr(
        trainer,
        "validate",
        lambda *_, **__: ({"loss": next(total), "recognition_loss": next(recognition)}, []),
    )
    found = _trainer(tmp_path, num_epochs=4)
    assert found.run(Interruption())
    assert found.progress.best_valid_loss == 2.0
    assert checkpoint.load_checkpoint(tmp_path / "best-valid-loss.pt")["epoch"] == 4


def test_finished_training_takes_no_step(tmp_path):
    _trainer(tmp_path).run(Interruption())
    again = _trainer(tmp_path)
    again._step = None
    assert again.run(Interruption())
    assert again.progress.step == 6


def test_finished_training_goes_on_when_it_gets_longer(tmp_path):
    _trainer(tmp_path / "whole", num_epochs=3).run(Interruption())
    _trainer(tmp_path / "parts", num_epochs=1).run(Interruption())
    longer = _trainer(tmp_path / "parts", num_epochs=3)
    assert longer.run(Interruption())
    expected = checkpoint.load_checkpoint(tmp_path / "whole" / "epoch-3.pt")
    assert_same(weights(longer.updater.objective.model), expected["model"])


@pytest.mark.parametrize(
    ("before", "after"), [("float32", "float16"), ("float16", "bfloat16"), ("float16", "float32")]
)
def test_training_goes_on_in_another_precision(tmp_path, before, after):
    make_trainer(tmp_path, updater_options={"precision": before}).run(StopAfter(2))
    other = make_trainer(tmp_path, updater_options={"precision": after})
    assert other.run(Interruption())
    assert other.progress.step == 6


def test_steps_may_be_divided_otherwise_after_an_interruption(tmp_path):
    """Other processes or smaller batches: the same steps go on in the middle of the epoch."""
    batches = some_batches(6)
    pairs = [[batches[i], batches[i + 1]] for i in (0, 2, 4)]
    _trainer(tmp_path, train=FixedSteps(pairs)).run(StopAfter(2))
    other = _trainer(tmp_path, train=FixedSteps([pairs[0][::-1], pairs[1][:1], pairs[2]]))
    assert other.run(Interruption())
    assert other.progress.step == 6


def test_files_of_a_killed_process_are_removed(tmp_path):
    (tmp_path / ".tmp-123-checkpoint-9.pt").write_bytes(b"half")
    _trainer(tmp_path).run(Interruption())
    assert not list(tmp_path.glob(".tmp-*"))


def test_newest_checkpoints_are_kept(tmp_path):
    _trainer(tmp_path, save_interval=1, keep_checkpoints=2, keep_epochs=1).run(Interruption())
    assert checkpoint.steps(tmp_path) == [5, 6]
    assert checkpoint.epochs(tmp_path) == [2]


def test_every_file_of_weights_is_plain(tmp_path):
    _trainer(tmp_path).run(Interruption())
    files = sorted(tmp_path.glob("*.pt"))
    assert {path.name for path in files} >= {"checkpoint-6.pt", "epoch-2.pt", "best-valid-loss.pt"}
    for path in files:
        assert torch.load(path, weights_only=True)["description"] == {"made": "by a test"}


def test_damaged_checkpoint_is_named(tmp_path):
    _trainer(tmp_path).run(StopAfter(2))
    path = checkpoint.step_path(tmp_path, 2)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"checkpoint-2\.pt is damaged"):
        _trainer(tmp_path).run(Interruption())


def test_a_checkpoint_of_something_else_is_named(tmp_path):
    make_trainer(tmp_path, num_epochs=1).run(Interruption())
    path = checkpoint.step_path(tmp_path, checkpoint.steps(tmp_path)[-1])
    state = checkpoint.load_checkpoint(path)
    for change in (
        {"objective": {"x": torch.ones(2)}},
        {"optimizer": {"state": {}, "param_groups": []}},
    ):
        checkpoint.save_checkpoint(path, {**state, **change})
        with pytest.raises(UserError, match="is no checkpoint of this training") as error:
            make_trainer(tmp_path, num_epochs=2).run(Interruption())
        assert str(path) in error.value.problem
    del state["optimizer"]
    checkpoint.save_checkpoint(path, state)
    with pytest.raises(UserError, match="is no checkpoint of this training: 'optimizer'"):
        make_trainer(tmp_path, num_epochs=2).run(Interruption())


def test_alone_in_the_world():
    assert World().is_main
    assert World().sum([1, 2.5]) == [1, 2.5]
    assert World().gather("a") == ["a"]


def test_a_training_without_a_result_fails(tmp_path):
    def spoiled():
        batch = make_batch("bad")
        batch.features[:] = math.nan
        return batch

    for _ in range(2):  # whoever asks again is told again
        found = make_trainer(tmp_path / "skipped", train=FixedSteps([spoiled()]))
        with pytest.raises(UserError, match="every step was skipped"):
            found.run(Interruption())
    with pytest.raises(UserError, match="no validation had a finite loss"):
        make_trainer(tmp_path / "valid", valid=[spoiled()]).run(Interruption())
    found = make_trainer(tmp_path / "huge", learning_rate=lambda step, total: 1e30)
    with pytest.raises(UserError, match="training ended without a result"):
        found.run(Interruption())
