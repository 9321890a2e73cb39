"""Averages of weights: running over steps, and over ranges of epochs.

The running average after n samples is the mean of the weights at those n moments (icefall's
`model_avg`), so the average over a range of epochs follows from the two at its ends:
(n_end avg_end - n_start avg_start) / (n_end - n_start). It is kept in float64, because that
difference loses digits.
"""

from __future__ import annotations

from pathlib import Path

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
    exp_dir: str | Path, *, epoch: int = -1, avg: int = 1, use_averaged_model: bool = True
) -> StateDict:
    """Weights of a student, averaged over epochs `epoch - avg + 1` to `epoch`.

    Args:
        exp_dir: holds `epoch-N.pt`.
        epoch: counts from 1; -1: the last one there is.
        avg: number of epochs.
        use_averaged_model: average the running average of the weights over those epochs (needs
            `epoch-<epoch - avg>.pt` too, unless that is the beginning), else the weights at the
            ends of those epochs (needs them all).

    Returns:
        State dict of the student, float32, on the CPU.

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
    if use_averaged_model:
        files = [epoch_path(exp_dir, n) for n in needed]
        kept = ("average", "average_count")
        states = [load_checkpoint(file, needs=kept, mmap=True) for file in files]
        end = states[-1]
        if len(states) == 1:
            mean = end["average"]
        else:
            start = states[0]
            mean = average_between(
                start["average"], start["average_count"], end["average"], end["average_count"]
            )
    else:
        mean = {}
        for n in needed:
            state = load_checkpoint(epoch_path(exp_dir, n), needs=("model",), mmap=True)
            for name, value in state["model"].items():
                if value.is_floating_point():
                    mean[name] = mean.get(name, 0.0) + value.double() / avg
                else:
                    mean[name] = value
    return {
        name: value.float() if value.is_floating_point() else value.clone()
        for name, value in mean.items()
    }
