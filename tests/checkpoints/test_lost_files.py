"""Files of weights that are damaged or lost: what is said of them is true."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from mvqkd.checkpoints.averaging import average_epochs
from mvqkd.checkpoints.files import (
    epochs,
    last_epoch,
    load_checkpoint,
    restore_epochs,
    save_checkpoint,
)
from mvqkd.checkpoints.pretrained import write_pretrained
from mvqkd.errors import UserError
from mvqkd.training.progress import Progress


def weights(step: int) -> dict[str, Any]:
    return {
        "average": {"w": torch.full((3,), step / 2, dtype=torch.float64)},
        "head_losses_average": {"v": torch.full((2,), step / 4, dtype=torch.float64)},
        "average_count": step,
        "description": {"model": {}},
    }


def write_checkpoint(folder: Path, step: int, epoch: int, epoch_step: int = 0) -> Path:
    progress = Progress(epoch=epoch, epoch_step=epoch_step, step=step)
    objective = {
        "model.w": torch.full((3,), float(step)),
        "head_losses.v": torch.full((2,), -float(step)),
        "distillation.u": torch.zeros(2),
    }
    state = {"objective": objective, "progress": asdict(progress), **weights(step)}
    save_checkpoint(folder / f"checkpoint-{step}.pt", state)
    return folder / f"checkpoint-{step}.pt"


def write_epoch(folder: Path, epoch: int, step: int) -> Path:
    path = folder / f"epoch-{epoch}.pt"
    kept = weights(step)
    description = kept.pop("description")
    model = {"w": torch.full((3,), float(step))}
    head_losses = {"v": torch.full((2,), -float(step))}
    both = {"model": model, "head_losses": head_losses, **kept}
    save_checkpoint(path, {**both, "epoch": epoch, "step": step, "description": description})
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A training of three epochs of ten steps, at its end; two checkpoints are kept."""
    for epoch in (1, 2, 3):
        write_epoch(tmp_path, epoch, 10 * epoch)
    write_checkpoint(tmp_path, 25, epoch=3, epoch_step=5)
    write_checkpoint(tmp_path, 30, epoch=4)
    write_pretrained(tmp_path, epoch=-1, avg=1, use_averaged_model=True)
    return tmp_path


def test_the_last_epoch_is_made_again_with_the_same_values(folder: Path) -> None:
    path = folder / "epoch-3.pt"
    before = load_checkpoint(path)
    path.unlink()
    restore_epochs(folder)
    found = load_checkpoint(path)
    assert list(found) == list(before) and repr(found) == repr(before)
    (folder / "epoch-2.pt").unlink()  # was not to be kept, or is asked for in vain
    restore_epochs(folder)
    assert epochs(folder) == [1, 3]


def test_an_epoch_is_made_of_a_checkpoint_of_an_earlier_version(folder: Path) -> None:
    """It has no average of the head losses, so `pretrained.pt` has no weights of them."""
    state = load_checkpoint(folder / "checkpoint-30.pt")
    del state["head_losses_average"]
    save_checkpoint(folder / "checkpoint-30.pt", state)
    (folder / "epoch-3.pt").unlink()
    restore_epochs(folder)
    pretrained = load_checkpoint(write_pretrained(folder, epoch=3, avg=2, use_averaged_model=True))
    assert pretrained["head_losses"] == {}
    assert pretrained["model"]["w"].tolist() == [20.0] * 3


def test_nothing_is_made_of_checkpoints_in_the_middle(folder: Path) -> None:
    (folder / "epoch-3.pt").unlink()
    (folder / "checkpoint-30.pt").unlink()
    restore_epochs(folder)  # the third epoch is trained to its end
    assert epochs(folder) == [1, 2]


@pytest.mark.parametrize("kept", ["checkpoint-30.pt", "pretrained.pt"])
def test_no_other_epoch_passes_for_the_last(folder: Path, kept: str) -> None:
    for name in {"epoch-3.pt", "checkpoint-30.pt", "pretrained.pt"} - {kept}:
        (folder / name).unlink()
    for read in (last_epoch, lambda path: average_epochs(path, epoch=-1)):
        with pytest.raises(UserError, match=r"epoch-3\.pt, the last epoch, is missing"):
            read(folder)
    assert average_epochs(folder, epoch=2)["w"].tolist() == [15.0] * 3
    write_epoch(folder, 3, 30)
    assert last_epoch(folder) == 3


def test_a_training_under_way_has_the_last_epoch_that_it_ended(folder: Path) -> None:
    (folder / "pretrained.pt").unlink()
    (folder / "epoch-3.pt").unlink()
    write_checkpoint(folder, 30, epoch=3, epoch_step=10)
    assert last_epoch(folder) == 2
    damaged = folder / "checkpoint-30.pt"  # decoding does not need it
    damaged.write_bytes(damaged.read_bytes()[:-200])
    assert last_epoch(folder) == 2


def damage(path: Path) -> str:
    """Flip a bit; returns what is advised then."""
    content = bytearray(path.read_bytes())
    content[700] ^= 8
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{path} is damaged") as caught:
        load_checkpoint(path)
    return str(caught.value.remedy)


def test_deletion_is_advised_where_it_helps(folder: Path) -> None:
    assert "or delete it: the training, run again, makes it" in damage(folder / "pretrained.pt")
    assert "or delete it: the training, run again, makes it" in damage(folder / "epoch-3.pt")
    assert "delete" not in damage(folder / "epoch-2.pt")
    assert "goes on from step 25" in damage(folder / "checkpoint-30.pt")
    assert "delete" not in damage(folder / "checkpoint-25.pt")  # the first there is


def test_deletion_is_not_advised_without_checkpoints(folder: Path) -> None:
    for path in folder.glob("checkpoint-*.pt"):
        path.unlink()
    for name in ("pretrained.pt", "epoch-3.pt"):
        assert damage(folder / name) == "put a copy of it back, or take other weights"
