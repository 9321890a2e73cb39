"""Checkpoints: dictionaries of plain tensors and JSON-able values, whole or absent.

- `checkpoint-<step>.pt`: everything a killed training needs to go on as if it had not been.
- `epoch-<N>.pt` (from 1) and `best-valid-loss.pt`: the student's weights and their running average,
  for decoding and averaging; without the optimizer, which is two thirds of a checkpoint.
- `pretrained.pt`: the averaged student alone, with its configuration.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from mvqkd.checkpoints.upgrade import upgrade
from mvqkd.errors import UserError
from mvqkd.storage.files import atomic_path

BEST = "best-valid-loss.pt"
PRETRAINED = "pretrained.pt"


def save_checkpoint(path: str | Path, state: dict[str, Any]) -> None:
    """Write `state` atomically."""
    # Given an open file, torch puts no file name into the archive: the same weights are the same
    # bytes.
    with atomic_path(path) as partial, open(partial, "wb") as file:
        torch.save(state, file)


def load_checkpoint(path: str | Path, *, mmap: bool = False) -> dict[str, Any]:
    """Read a checkpoint to the CPU.

    Args:
        mmap: read tensors when they are used; the file must not change meanwhile.

    Raises:
        UserError: the file is missing or is no checkpoint of this kind.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} is missing", step="training")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        if not isinstance(state, dict):
            raise TypeError(f"it holds a {type(state).__name__}")
    except Exception as error:  # torch raises many kinds; all mean a bad file here
        raise UserError(
            f"{path} cannot be read: {error}", remedy="delete the file; training goes on without it"
        ) from error
    return upgrade(state, path)


def step_path(exp_dir: Path, step: int) -> Path:
    """`checkpoint-<step>.pt`."""
    return exp_dir / f"checkpoint-{step}.pt"


def epoch_path(exp_dir: Path, epoch: int) -> Path:
    """`epoch-<N>.pt`."""
    return exp_dir / f"epoch-{epoch}.pt"


def steps(exp_dir: Path) -> list[int]:
    """Steps of the `checkpoint-<step>.pt` there are, ascending."""
    return _numbers(exp_dir, "checkpoint")


def epochs(exp_dir: Path) -> list[int]:
    """Epochs of the `epoch-<N>.pt` there are, ascending."""
    return _numbers(exp_dir, "epoch")


def keep_last(exp_dir: Path, *, checkpoints: int, epochs_kept: int) -> None:
    """Delete all but the newest files of each kind; -1 keeps all."""
    if checkpoints >= 0:
        for step in steps(exp_dir)[: -checkpoints or None]:
            step_path(exp_dir, step).unlink(missing_ok=True)
    if epochs_kept >= 0:
        for epoch in epochs(exp_dir)[: -epochs_kept or None]:
            epoch_path(exp_dir, epoch).unlink(missing_ok=True)


def remove_partial(exp_dir: Path) -> None:
    """Delete what a killed process left half written."""
    for path in exp_dir.glob(".tmp-*"):
        path.unlink(missing_ok=True)


def _numbers(exp_dir: Path, kind: str) -> list[int]:
    pattern = re.compile(rf"{kind}-(\d+)\.pt")
    matches = (pattern.fullmatch(path.name) for path in exp_dir.glob(f"{kind}-*.pt"))
    return sorted(int(match[1]) for match in matches if match)
