"""Averages of weights against brute-force means."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from mvqkd.checkpoints import files as checkpoint
from mvqkd.checkpoints.averaging import RunningAverage, average_between, average_epochs
from mvqkd.checkpoints.pretrained import begin_with, write_pretrained
from mvqkd.errors import UserError
from mvqkd.runtime.interruption import Interruption
from tests.training.helpers import assert_same, make_objective, make_trainer


def test_running_average_is_the_mean_of_all_samples():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    model.register_buffer("calls", torch.tensor(0))
    average = RunningAverage(model)
    samples, saved = [], {}
    for n in range(1, 1001):
        nn.init.normal_(model.weight)
        model.calls += 1
        samples.append(model.weight.detach().double())
        average.update(model)
        saved[n] = {name: value.clone() for name, value in average.values.items()}
    assert average.count == 1000
    assert_close(average.values["weight"], torch.stack(samples).mean(0), rtol=1e-12, atol=1e-12)
    assert average.values["calls"] == 1000
    for start, end in ((999, 1000), (400, 700)):
        mean = average_between(saved[start], start, saved[end], end)["weight"]
        assert_close(mean, torch.stack(samples[start:end]).mean(0), rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match="no samples"):
        average_between(saved[5], 5, saved[5], 5)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with three epochs of three steps, and the weights of the objective after each
    step."""
    folder = tmp_path_factory.mktemp("trained")
    trainer = make_trainer(folder, num_epochs=3, average_period=1)
    after, take_step = [], trainer._step

    def step(*arguments):
        take_step(*arguments)
        objective = trainer.updater.objective
        after.append({name: value.clone() for name, value in objective.state_dict().items()})

    trainer._step = step
    trainer.run(Interruption())
    assert len(after) == 9
    return folder, after


@pytest.mark.parametrize("part", ["model", "head_losses"])
@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, (6, 7, 8)),
        ({"avg": 2}, (3, 4, 5, 6, 7, 8)),
        ({"epoch": 2, "avg": 2}, (0, 1, 2, 3, 4, 5)),
        ({"use_averaged_model": False}, (8,)),
        ({"epoch": 2, "avg": 2, "use_averaged_model": False}, (2, 5)),
    ],
)
def test_weights_for_decoding_are_the_mean_over_those_epochs(trained, options, steps, part):
    folder, after = trained
    loaded = average_epochs(folder, **options, part=part)
    assert loaded.keys() == checkpoint.part_of(after[0], f"{part}.").keys() != set()
    for name, value in loaded.items():
        samples = [after[i][f"{part}.{name}"] for i in steps]
        expected = torch.stack(samples).double().mean(0).float()
        assert value.dtype == torch.float32
        assert_close(value, expected, rtol=1e-6, atol=1e-6)


def test_missing_epochs_are_named(trained, tmp_path):
    folder, _ = trained
    with pytest.raises(UserError, match=r"epoch-7\.pt.*has epochs 1, 2, 3"):
        average_epochs(folder, epoch=7, avg=2)
    with pytest.raises(UserError, match="cannot average 5 epochs up to epoch 3"):
        average_epochs(folder, avg=5)
    with pytest.raises(UserError, match=r"no epoch-N\.pt"):
        average_epochs(tmp_path)


def test_pretrained_holds_the_average_and_its_description(trained):
    folder, _ = trained
    path = write_pretrained(folder, epoch=-1, avg=2, use_averaged_model=True)
    state = torch.load(path, weights_only=True)
    assert {key: state[key] for key in ("description", "epoch", "avg", "use_averaged_model")} == {
        "description": {"made": "by a test"},
        "epoch": 3,
        "avg": 2,
        "use_averaged_model": True,
    }
    for part in ("model", "head_losses"):
        assert_same(state[part], average_epochs(folder, avg=2, part=part))


def test_a_student_and_its_head_losses_begin_with_the_weights_of_others(trained, caplog):
    folder, after = trained
    write_pretrained(folder, epoch=-1, avg=2, use_averaged_model=True)
    averages = {
        f"{part}.{name}": value
        for part in ("model", "head_losses")
        for name, value in average_epochs(folder, avg=2, part=part).items()
    }
    expected = {
        "checkpoint-9.pt": after[8],
        "epoch-3.pt": after[8],
        "pretrained.pt": averages,
    }
    for name, weights in expected.items():
        objective = make_objective(seed=5)
        begin_with(objective.model, folder / name, head_losses=objective.head_losses)
        assert_same(objective.state_dict(), weights)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_head_losses_that_are_not_in_the_file_begin_at_random_and_it_is_told(
    trained, tmp_path, caplog
):
    folder, after = trained
    state = checkpoint.load_checkpoint(folder / "epoch-3.pt")
    objective = make_objective(seed=5)
    before = checkpoint.part_of(objective.state_dict(), "head_losses.")
    before = {name: value.clone() for name, value in before.items()}
    checkpoint.save_checkpoint(tmp_path / "old.pt", {**state, "head_losses": {}})
    begin_with(objective.model, tmp_path / "old.pt", head_losses=objective.head_losses)
    assert_same(objective.model.state_dict(), checkpoint.part_of(after[8], "model."))
    assert_same(objective.head_losses.state_dict(), before)
    told = "transducer.pruned: not in the file, so they begin at random (of the training loss"
    assert told in caplog.text


def test_a_student_of_other_sizes_is_refused_and_the_tensors_are_named(trained, tmp_path):
    folder, _ = trained
    objective = make_objective(ctc_scale=0.0)
    objective.model.transducer.joiner.output = nn.Linear(16, 3)
    objective.model.encoder.layers = nn.ModuleList([nn.Linear(2, 3)])
    before = {name: value.clone() for name, value in objective.model.state_dict().items()}
    with pytest.raises(UserError, match="holds another student") as error:
        begin_with(objective.model, folder / "epoch-3.pt")
    assert "transducer.joiner.output.weight: [6, 16] in the file, [3, 16] here" in str(error.value)
    assert "encoder.layers.0.weight: none" in error.value.problem
    assert " encoder.subsampling" not in error.value.problem
    assert_same(objective.model.state_dict(), before)
    with pytest.raises(UserError, match=r"none\.pt, to begin with, is missing"):
        begin_with(objective.model, tmp_path / "none.pt")


def test_period_is_shortened_so_that_an_epoch_has_samples(tmp_path):
    make_trainer(tmp_path, average_period=1000).run(Interruption())
    counts = [
        checkpoint.load_checkpoint(checkpoint.epoch_path(tmp_path, n))["average_count"]
        for n in (1, 2)
    ]
    assert counts == [3, 6]


def test_the_same_weights_are_the_same_bytes(tmp_path):
    for name in ("one.pt", "another.pt"):
        checkpoint.save_checkpoint(tmp_path / name, {"model": {"a": torch.ones(3)}, "step": 4})
    assert (tmp_path / "one.pt").read_bytes() == (tmp_path / "another.pt").read_bytes()
