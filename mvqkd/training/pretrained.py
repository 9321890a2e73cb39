"""`pretrained.pt`: the averaged student alone, with what is needed to build it."""

from __future__ import annotations

import logging
from pathlib import Path

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
