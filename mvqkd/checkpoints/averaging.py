"""Averages of weights: running over steps, and over ranges of epochs.

The running average after n samples is the mean of the weights at those n moments (icefall's
`model_avg`), so the average over a range of epochs follows from the two at its ends:
(n_end avg_end - n_start avg_start) / (n_end - n_start). It is kept in float64, because that
difference loses digits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mvqkd.checkpoints.epochs import needed_epochs
from mvqkd.checkpoints.files import epoch_path, epochs, last_epoch, load_checkpoint
from mvqkd.errors import UserError

StateDict = dict[str, Tensor]


class RunningAverage:
    """Mean of the weights of `model` at every moment `update` was called; float64, on its device.

    Values that are not floating-point numbers are those of the last update.
    """

    def __init__(self, model: nn.Module) -> None:
        self.count = 0
        self.values: StateDict = {
            name: torch.zeros_like(value, dtype=torch.float64)
            if value.is_floating_point()
            else value.clone()
            for name, value in model.state_dict().items()
        }

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take the present weights into the mean."""
        self.count += 1
        for name, value in model.state_dict().items():
            mean = self.values[name]
            if mean.is_floating_point():
                mean += (value - mean) / self.count
            else:
                mean.copy_(value)

    def load(self, values: StateDict, count: int) -> None:
        """Go on from saved values."""
        for name, value in values.items():
            self.values[name].copy_(value)
        self.count = count


class TrainingAverage:
    """Running averages of a student and of its head losses, as files of weights hold them.

    Args:
        model: the student.
        head_losses: their weights serve training alone, see `mvqkd.training.heads.HeadLoss`.
    """

    def __init__(self, model: nn.Module, head_losses: nn.Module) -> None:
        self._parts = {"average": model, "head_losses_average": head_losses}
        self._averages = {entry: RunningAverage(part) for entry, part in self._parts.items()}

    def update(self) -> None:
        """Take the present weights into the means."""
        for entry, average in self._averages.items():
            average.update(self._parts[entry])

    def state(self) -> dict[str, Any]:
        """`average`, `average_count` and `head_losses_average` of a file of weights."""
        entries = {entry: average.values for entry, average in self._averages.items()}
        return entries | {"average_count": self._averages["average"].count}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a saved state. One of an earlier version has no average of the head losses,
        which goes on from their present weights."""
        for entry, average in self._averages.items():
            weights = state["average"] if entry == "average" else state.get(entry)
            average.load(
                self._parts[entry].state_dict() if weights is None else weights,
                state["average_count"],
            )


def average_between(
    start: StateDict, start_count: int, end: StateDict, end_count: int
) -> StateDict:
    """Mean of the samples that are in `end` and not in `start`: two running averages of a training.

    Raises:
        ValueError: there is no such sample.
    """
    if end_count <= start_count:
        raise ValueError(f"no samples between {start_count} and {end_count}")
    samples = end_count - start_count
    return {
        name: (end_count / samples) * value - (start_count / samples) * start[name]
        if value.is_floating_point()
        else value
        for name, value in end.items()
    }


def average_epochs(
    exp_dir: str | Path,
    *,
    epoch: int = -1,
    avg: int = 1,
    use_averaged_model: bool = True,
    part: Literal["model", "head_losses"] = "model",
) -> StateDict:
    """Weights of a student, averaged over epochs `epoch - avg + 1` to `epoch`.

    Args:
        exp_dir: holds `epoch-N.pt`.
        epoch: counts from 1; -1: the last one there is.
        avg: number of epochs.
        use_averaged_model: average the running average of the weights over those epochs (needs
            `epoch-<epoch - avg>.pt` too, unless that is the beginning), else the weights at the
            ends of those epochs (needs them all).
        part: `head_losses`: the weights of its head losses instead, which serve training alone.

    Returns:
        State dict, float32, on the CPU. Of the head losses, empty if one of the files is of an
        earlier version, which did not keep them.

    Raises:
        UserError: a file is missing, or `avg` reaches before the first epoch.
    """
    exp_dir = Path(exp_dir)
    available = epochs(exp_dir)
    epoch = last_epoch(exp_dir) if epoch == -1 or not available else epoch
    if not 1 <= avg <= epoch:
        raise UserError(
            f"cannot average {avg} epochs up to epoch {epoch}",
            remedy=f"average from 1 to {epoch} epochs",
            parameters=("avg",),
        )
    needed = needed_epochs(epoch, avg, use_averaged_model=use_averaged_model)
    missing = sorted(set(needed) - set(available))
    if missing:
        raise UserError(
            f"{', '.join(str(epoch_path(exp_dir, n)) for n in missing)} is missing; "
            f"{exp_dir} has epochs {', '.join(map(str, available))}",
            remedy="choose another epoch or a shorter average, or keep more epochs in training",
            parameters=("epoch", "avg", "keep_epochs"),
        )
    files = [epoch_path(exp_dir, n) for n in needed]
    kept = ("average", "average_count") if use_averaged_model else ("model",)
    states = [load_checkpoint(file, needs=kept, mmap=True) for file in files]
    if part == "model":
        entry = kept[0]
    else:
        entry = f"{part}_average" if use_averaged_model else part
        if any(entry not in state for state in states):
            return {}
    if use_averaged_model:
        end = states[-1]
        if len(states) == 1:
            mean = end[entry]
        else:
            start = states[0]
            mean = average_between(
                start[entry], start["average_count"], end[entry], end["average_count"]
            )
    else:
        mean = {}
        for state in states:
            for name, value in state[entry].items():
                if value.is_floating_point():
                    mean[name] = mean.get(name, 0.0) + value.double() / avg
                else:
                    mean[name] = value
    return {
        name: value.float() if value.is_floating_point() else value.clone()
        for name, value in mean.items()
    }
