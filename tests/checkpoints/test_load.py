"""Models from any file that a training writes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import mvqkd
from mvqkd.checkpoints.averaging import average_epochs
from mvqkd.checkpoints.files import load_checkpoint, save_checkpoint
from mvqkd.checkpoints.pretrained import begin_with, write_pretrained
from mvqkd.errors import UserError
from mvqkd.models import AsrModel
from mvqkd.models.build import build_model

DESCRIPTION = {
    "model": {
        "dim": 16,
        "num_layers": 2,
        "num_heads": 2,
        "feedforward_dim": 24,
        "conv_kernel": 5,
        "dropout": 0.1,
        "causal": True,
        "predictor_dim": 8,
        "context_size": 2,
        "joiner_dim": 8,
        "chunk_size": [4],
        "left_context": 8,
    },
    "vocab_size": 10,
    "heads": ["transducer", "ctc"],
}


def weights(seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return build_model(DESCRIPTION).state_dict()


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A folder with two epochs, `pretrained.pt` and a checkpoint; all weights differ."""
    for epoch in (1, 2):
        average = {name: value.double() for name, value in weights(10 + epoch).items()}
        save_checkpoint(
            tmp_path / f"epoch-{epoch}.pt",
            {
                "model": weights(epoch),
                "average": average,
                "average_count": 5 * epoch,
                "description": DESCRIPTION,
            },
        )
    write_pretrained(tmp_path, epoch=2, avg=1, use_averaged_model=True)
    objective = {f"model.{name}": value for name, value in weights(20).items()}
    objective["head_losses.transducer.pruned.project_encoder.weight"] = torch.zeros(1)
    save_checkpoint(
        tmp_path / "checkpoint-7.pt", {"objective": objective, "description": DESCRIPTION}
    )
    return tmp_path


def assert_weights(model: AsrModel, expected: dict[str, torch.Tensor]) -> None:
    assert not model.training
    assert model.description == DESCRIPTION
    found = model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_every_file_gives_the_weights_at_its_moment(trained: Path) -> None:
    pretrained = load_checkpoint(trained / "pretrained.pt")["model"]
    assert_weights(mvqkd.load_model(trained), pretrained)
    assert_weights(mvqkd.load_model(str(trained / "pretrained.pt")), pretrained)
    assert_weights(mvqkd.load_model(trained / "epoch-1.pt"), weights(1))
    assert_weights(mvqkd.load_model(trained / "checkpoint-7.pt"), weights(20))


@pytest.mark.parametrize("averaged", [True, False])
@pytest.mark.parametrize(("epoch", "avg"), [(1, 1), (2, 1), (2, 2), (-1, 1)])
def test_folders_give_averages_over_epochs(
    trained: Path, averaged: bool, epoch: int, avg: int
) -> None:
    expected = average_epochs(trained, epoch=epoch, avg=avg, use_averaged_model=averaged)
    model = mvqkd.load_model(trained, epoch, avg, use_averaged_model=averaged)
    assert_weights(model, expected)


def test_what_cannot_be_loaded_is_reported(trained: Path) -> None:
    with pytest.raises(UserError, match=r"none\.pt is missing"):
        mvqkd.load_model(trained / "none.pt")
    with pytest.raises(UserError, match=r"epoch-3\.pt is missing"):
        mvqkd.load_model(trained, epoch=3)
    with pytest.raises(UserError, match="from the folder of an experiment"):
        mvqkd.load_model(trained / "epoch-1.pt", epoch=1)
    with pytest.raises(UserError, match="from the folder of an experiment"):
        mvqkd.load_model(trained, avg=2)
    save_checkpoint(trained / "odd.pt", {"numbers": torch.zeros(3)})
    with pytest.raises(UserError, match=r"odd\.pt has no weights of a model"):
        mvqkd.load_model(trained / "odd.pt")
    save_checkpoint(trained / "bare.pt", {"model": weights(1)})
    with pytest.raises(UserError, match=r"bare\.pt does not say what model"):
        mvqkd.load_model(trained / "bare.pt")
    (trained / "pretrained.pt").write_bytes(b"not a file of tensors")
    with pytest.raises(UserError, match=r"pretrained\.pt is damaged"):
        mvqkd.load_model(trained)


def test_weights_that_are_not_finite_are_named(trained: Path) -> None:
    path = trained / "pretrained.pt"
    state = load_checkpoint(path)
    name = next(name for name, value in state["model"].items() if value.is_floating_point())
    state["model"][name].view(-1)[0] = torch.nan
    save_checkpoint(path, state)
    with pytest.raises(UserError, match=f"not finite, of {name}") as error:
        mvqkd.load_model(path)
    assert str(path) in error.value.problem
    with pytest.raises(UserError, match="not finite"):
        begin_with(build_model(DESCRIPTION), path)
