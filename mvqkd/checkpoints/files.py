"""Checkpoints: dictionaries of plain tensors and JSON-able values, whole or absent.

- `checkpoint-<step>.pt`: everything a killed training needs to go on as if it had not been.
- `epoch-<N>.pt` (from 1) and `best-valid-loss.pt`: the student's weights and their running average,
  for decoding and averaging; without the optimizer, which is two thirds of a checkpoint.
- `pretrained.pt`: the averaged student, with its configuration.

The last three have the weights of the head losses beside the student's, for trainings that begin
with them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mvqkd.checkpoints.upgrade import upgrade
from mvqkd.errors import UserError
from mvqkd.storage.tensors import load_tensors, save_tensors

BEST = "best-valid-loss.pt"
PRETRAINED = "pretrained.pt"
MODEL = "model."
"""Begins the names of the student's weights among those of an objective."""
HEAD_LOSSES = "head_losses."
"""Begins the names of the weights of its head losses there."""


def save_checkpoint(path: str | Path, state: dict[str, Any]) -> None:
    """Write `state` atomically; the same weights are the same bytes."""
    save_tensors(path, state)


def load_checkpoint(
    path: str | Path, *, needs: Sequence[str] = (), mmap: bool = False
) -> dict[str, Any]:
    """Read a checkpoint to the CPU, verified.

    Args:
        path: the file.
        needs: names of what has to be there.
        mmap: read tensors when they are used; the file must not change meanwhile.

    Raises:
        UserError: the file is missing, damaged, or not a checkpoint of this kind.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} is missing", step="training")
    try:
        state = load_tensors(path, mmap=mmap)
    except UserError as error:
        raise UserError(error.problem, remedy=_remedy(path)) from error
    if not isinstance(state, dict) or not set(needs) <= state.keys():
        raise UserError(
            f"{path} is not a file of weights, or not one of this kind",
            remedy="name one that a training wrote",
        )
    return upgrade(state, path)


def part_of(objective: dict[str, Any], prefix: str) -> dict[str, Any]:
    """The weights of an objective whose names begin with `MODEL` or `HEAD_LOSSES`, under names
    without it."""
    return {
        name.removeprefix(prefix): value
        for name, value in objective.items()
        if name.startswith(prefix)
    }


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
    files = (path for path in exp_dir.glob(f"{kind}-*.pt") if path.is_file())
    matches = (pattern.fullmatch(path.name) for path in files)
    return sorted(int(match[1]) for match in matches if match)


def last_epoch(exp_dir: Path) -> int:
    """The last epoch that a training has completed.

    Raises:
        UserError: no epoch has a file; or the last one's is missing, and another would pass for it.
    """
    available = epochs(exp_dir)
    if not available:
        raise UserError(f"{exp_dir} has no epoch-N.pt", step="training")
    ended = max((epoch - 1 for epoch, _ in _places(exp_dir, steps(exp_dir)[-1:])), default=0)
    if (exp_dir / PRETRAINED).is_file():
        with suppress(UserError):  # it is not what is asked for
            pretrained = load_checkpoint(exp_dir / PRETRAINED, needs=("epoch",), mmap=True)
            ended = max(ended, pretrained["epoch"])
    if ended > available[-1]:
        raise UserError(
            f"{epoch_path(exp_dir, ended)}, the last epoch, is missing",
            remedy="put it back, or name another epoch",
            parameters=("epoch",),
            step="training",
        )
    return available[-1]


def restore_epochs(exp_dir: Path) -> None:
    """Write the `epoch-N.pt` that are missing after the last one there is, from the checkpoints at
    the ends of those epochs."""
    last = max(epochs(exp_dir), default=0)
    for step in steps(exp_dir)[::-1]:
        checkpoint = step_path(exp_dir, step)
        epoch, epoch_step = _place(checkpoint)
        if epoch - 1 <= last:
            return
        if epoch_step:
            continue
        path = epoch_path(exp_dir, epoch - 1)
        state = load_checkpoint(checkpoint)
        weights = {
            "model": part_of(state["objective"], MODEL),
            "head_losses": part_of(state["objective"], HEAD_LOSSES),
        }
        # An earlier version did not average the head losses.
        entries = ("average", "head_losses_average", "average_count")
        kept = {name: state[name] for name in entries if name in state}
        place = {"epoch": epoch - 1, "step": step, "description": state["description"]}
        save_checkpoint(path, {**weights, **kept, **place})
        logging.warning("%s was missing: it is made again from %s", path, checkpoint)


def _remedy(path: Path) -> str:
    """What to do about a file that is damaged."""
    copy, exp_dir = "put a copy of it back", path.parent
    known = re.fullmatch(r"(checkpoint|epoch)-(\d+)\.pt", path.name)
    kind, number = (known[1], int(known[2])) if known else (path.name, 0)
    before = [step for step in steps(exp_dir) if step < number]
    if kind == "checkpoint" and before:
        return f"{copy}, or delete it: the training, run again, goes on from step {before[-1]}"
    places = _places(exp_dir, steps(exp_dir)) if kind in ("epoch", PRETRAINED) else []
    # From the checkpoint at its end, or by training up to its end again.
    again = (number + 1, 0) in places or (places and places[-1][0] <= number)
    if (kind == PRETRAINED and places) or (number == max(epochs(exp_dir), default=0) and again):
        return f"{copy}, or delete it: the training, run again, makes it of its checkpoint"
    return f"{copy}, or take other weights"


def _places(exp_dir: Path, of: list[int]) -> list[tuple[int, int]]:
    """`_place` of the checkpoints of these steps that can be read."""
    found = []
    for step in of:
        try:
            found.append(_place(step_path(exp_dir, step)))
        except UserError as error:
            logging.warning("%s", error.problem)
    return found


def _place(path: Path) -> tuple[int, int]:
    """Epoch in progress, and steps of it, of a checkpoint."""
    progress = load_checkpoint(path, mmap=True).get("progress", {})
    return progress.get("epoch", 0), progress.get("epoch_step", 0)
