"""`pretrained.pt`: the averaged student alone, with what is needed to build it; and students that
begin with such weights."""

from __future__ import annotations

import logging
from pathlib import Path

from torch import Tensor, nn

from mvqkd.errors import UserError
from mvqkd.training.averaging import load_for_decoding
from mvqkd.training.checkpoint import (
    PRETRAINED,
    epoch_path,
    epochs,
    load_checkpoint,
    save_checkpoint,
)


def write_pretrained(exp_dir: Path, *, epoch: int, avg: int, use_averaged_model: bool) -> Path:
    """Write `pretrained.pt`; arguments as those of `load_for_decoding`.

    The file is a dictionary: `model`, a float32 state dict; `description`, the training's; and the
    arguments.
    """
    weights = load_for_decoding(
        exp_dir, epoch=epoch, avg=avg, use_averaged_model=use_averaged_model
    )
    epoch = epochs(exp_dir)[-1] if epoch == -1 else epoch
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
            f"training.init: {path} is missing", remedy="name a pretrained.pt or a checkpoint"
        )
    state = load_checkpoint(path, mmap=True)
    prefix = "student."
    weights = state.get("model") or {
        name.removeprefix(prefix): value
        for name, value in state.get("objective", {}).items()
        if name.startswith(prefix)
    }
    wanted = student.state_dict()
    different = [
        f"{name}: {_shape(weights.get(name))} in the file, {_shape(wanted.get(name))} here"
        for name in {**wanted, **weights}
        if _shape(weights.get(name)) != _shape(wanted.get(name))
    ]
    if different:
        raise UserError(
            f"training.init: {path} holds another student:\n    " + "\n    ".join(different),
            remedy="the same section model, --vocab-size and use of CTC (loss.ctc_scale) as there, "
            "or another file",
        )
    student.load_state_dict(weights)
    logging.info("the student begins with the weights of %s", path)


def _shape(value: Tensor | None) -> str:
    return "none" if value is None else str(list(value.shape))
