"""`pretrained.pt`: the averaged student alone, with what is needed to build it; and students that
begin with such weights."""

from __future__ import annotations

import logging
from pathlib import Path

from torch import Tensor, nn

from mvqkd.checkpoints.averaging import average_epochs
from mvqkd.checkpoints.files import (
    PRETRAINED,
    epoch_path,
    last_epoch,
    load_checkpoint,
    save_checkpoint,
)
from mvqkd.checkpoints.load import check_finite, weights_of
from mvqkd.errors import UserError


def write_pretrained(exp_dir: Path, *, epoch: int, avg: int, use_averaged_model: bool) -> Path:
    """Write `pretrained.pt`; arguments as those of `average_epochs`.

    The file is a dictionary: `model`, a float32 state dict; `description`, the training's; and the
    arguments.
    """
    epoch = last_epoch(exp_dir) if epoch == -1 else epoch
    weights = average_epochs(exp_dir, epoch=epoch, avg=avg, use_averaged_model=use_averaged_model)
    path = exp_dir / PRETRAINED
    save_checkpoint(
        path,
        {
            "model": weights,
            "description": load_checkpoint(epoch_path(exp_dir, epoch), mmap=True)["description"],
            "epoch": epoch,
            "avg": avg,
            "use_averaged_model": use_averaged_model,
        },
    )
    logging.info("%s: epoch %d, average of %d", path, epoch, avg)
    return path


def begin_with(student: nn.Module, path: str | Path) -> None:
    """Give a student the weights that another training came to.

    Args:
        student: of the same sizes.
        path: `pretrained.pt`, `epoch-N.pt`, `best-valid-loss.pt` or `checkpoint-<step>.pt`.

    Raises:
        UserError: the file is missing or damaged, or is of a student of other sizes: the tensors
            that differ are named.
    """
    if not Path(path).is_file():
        raise UserError(
            f"{path}, to begin with, is missing", remedy="name a pretrained.pt or a checkpoint"
        )
    weights = weights_of(load_checkpoint(path, mmap=True), Path(path))
    wanted = student.state_dict()
    different = [
        f"{name}: {_shape(weights.get(name))} in the file, {_shape(wanted.get(name))} here"
        for name in {**wanted, **weights}
        if _shape(weights.get(name)) != _shape(wanted.get(name))
    ]
    if different:
        raise UserError(
            f"{path}, to begin with, holds another student:\n    " + "\n    ".join(different),
            remedy="take the same sizes, vocabulary and heads as there, or another file",
        )
    check_finite(weights, Path(path))
    student.load_state_dict(weights)
    logging.info("the student begins with the weights of %s", path)


def _shape(value: Tensor | None) -> str:
    return "none" if value is None else str(list(value.shape))
