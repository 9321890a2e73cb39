"""Sums of losses over batches and processes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mvqkd.runtime.distributed import World
from mvqkd.training.objective import Losses

_COUNT = "num_"  # see `mvqkd.training.heads.protocol.HeadLoss`


class LossSums:
    """Sums of the losses of several batches, in float64.

    They stay on the device until they are read, so that adding waits for no kernel.
    """

    def __init__(self, saved: dict[str, float] | None = None) -> None:
        self._sums: dict[str, Tensor | float] = dict(saved or {})

    def add(self, losses: Losses) -> None:
        """Add a batch."""
        frames = losses.frames.double()
        values = {
            "recognition": losses.recognition.detach().double(),
            "distillation": losses.distillation.detach().double(),
            "frames": frames,
            "labelled_frames": losses.labelled_frames.double(),
        }
        for name, loss in losses.components.items():
            values |= {name: loss.double(), _frames(name): frames}
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def merge(self, other: LossSums) -> None:
        """Add another's sums."""
        for name, value in other._sums.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def over(self, world: World, components: Sequence[str]) -> dict[str, float]:
        """Sums over all processes: of the weighted losses, their frames, and each component with
        the frames of the batches that had it.

        Every process must call it, with the same names, also one that has added nothing.
        """
        names = ["recognition", "distillation", "frames", "labelled_frames"]
        for name in components:
            names += [name, _frames(name)]
        local = [float(self._sums.get(name, 0.0)) for name in names]
        return dict(zip(names, world.sum(local), strict=True))


def per_frame(sums: dict[str, float]) -> dict[str, float]:
    """From what `LossSums.over` returns: `loss`, the mean of what is minimized; `recognition_loss`,
    its part that is not distillation, per labelled frame; and each component per encoder frame.
    nan when there are no frames, and nothing of components that no batch had. Components that are
    counts (`num_...`) stay sums."""
    labelled, frames = sums["labelled_frames"], sums["frames"]
    recognition = sums["recognition"] / labelled if labelled else float("nan")
    distillation = sums["distillation"] / frames if frames else float("nan")
    loss = distillation + (recognition if labelled else 0.0)
    means = {"loss": loss, "recognition_loss": recognition}
    for name, value in sums.items():
        count = sums.get(_frames(name), 0.0)
        if count:
            means[name] = value if name.startswith(_COUNT) else value / count
    return means


def _frames(name: str) -> str:
    return f"{name}/frames"
