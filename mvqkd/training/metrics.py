"""What a training reports: `log/metrics.jsonl` and TensorBoard."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter

from mvqkd.runtime.distributed import World
from mvqkd.storage.files import write_text, writing
from mvqkd.storage.jsonl import log_line, read_log
from mvqkd.training.sums import LossSums
from mvqkd.training.update import Update


class LogInterval:
    """What happens between two lines of the log.

    Args:
        audio_seconds: of the training when the interval begins.
        elapsed: likewise.
    """

    def __init__(self, audio_seconds: float = 0.0, elapsed: float = 0.0) -> None:
        self.audio_seconds = audio_seconds
        self.elapsed = elapsed
        self.sums = LossSums()
        self._updates = 0
        self._grad_norm = 0.0
        self._clip_factor = 0.0

    def add(self, update: Update) -> None:
        """Add an update; a skipped step counts for nothing."""
        if update.sums is None:
            return
        self.sums.merge(update.sums)
        self._updates += 1
        self._grad_norm += update.grad_norm
        self._clip_factor += update.clip_factor

    def averages(self) -> dict[str, float]:
        """Means over the updates."""
        count = self._updates or math.nan
        return {"grad_norm": self._grad_norm / count, "clip_factor": self._clip_factor / count}

    def state(self, world: World, components: Sequence[str]) -> dict[str, Any]:
        """For a checkpoint; every process must call it. JSON-able."""
        return {
            "audio_seconds": self.audio_seconds,
            "elapsed": self.elapsed,
            "sums": self.sums.over(world, components),
            "updates": self._updates,
            "grad_norm": self._grad_norm,
            "clip_factor": self._clip_factor,
        }

    @classmethod
    def restore(cls, state: dict[str, Any], *, is_main: bool) -> LogInterval:
        """From `state`; the main process takes the sums of all."""
        interval = cls(state["audio_seconds"], state["elapsed"])
        interval.sums = LossSums(state["sums"] if is_main else None)
        interval._updates = state["updates"]
        interval._grad_norm = state["grad_norm"]
        interval._clip_factor = state["clip_factor"]
        return interval


class MetricsLog:
    """One JSON object per line and the same numbers for TensorBoard.

    Every line has `kind` (`train`, `valid`, of other data `valid/<name>`), `step`, `epoch`, `loss`
    and its components per encoder frame (those named `num_...` are counts), `audio_hours` and
    `elapsed` (hours of audio and seconds of training since the beginning, over all restarts);
    `train` lines also `learning_rate`, `grad_norm` and `x_real_time` (seconds of audio per second
    of training).

    Args:
        exp_dir: holds `log/metrics.jsonl` and `tensorboard/`.
        step: from which training goes on; later lines, of a training that was killed, are dropped,
            since they come again.
    """

    def __init__(self, exp_dir: Path, step: int) -> None:
        self.path = exp_dir / "log" / "metrics.jsonl"
        self.lines = [x for x in read_metrics(self.path) if step and x["step"] <= step]
        write_text(self.path, "".join(map(log_line, self.lines)))
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115
        self._board = SummaryWriter(str(exp_dir / "tensorboard"), purge_step=step + 1)

    def write(self, kind: str, values: dict[str, Any]) -> None:
        """Append a line; `values` has `step`."""
        line: dict[str, Any] = {"kind": kind}
        for name, value in values.items():  # JSON has no nan
            finite = not isinstance(value, float) or math.isfinite(value)
            line[name] = value if finite else None
        self.lines.append(line)
        with writing(self.path):
            self._file.write(log_line(line))
            self._file.flush()
        for name, value in values.items():
            if isinstance(value, int | float) and name not in ("step", "epoch"):
                self._board.add_scalar(f"{kind}/{name}", value, values["step"])
        self._board.flush()

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        self._board.close()


def line_for_people(kind: str, values: dict[str, Any]) -> str:
    """What `MetricsLog.write` gets, as text; `elapsed` is in seconds."""
    shown = {"step", "epoch", "audio_hours", "x_real_time"}
    numbers = [
        f"{name} {value:.4g}" for name, value in values.items() if name not in shown | {"elapsed"}
    ]
    text = f"{kind}: epoch {values['epoch']}, step {values['step']}: {', '.join(numbers)}"
    text += f"; {values['audio_hours']:.1f} h of audio in {values['elapsed'] / 3600:.2f} h"
    if "x_real_time" in values:
        text += f", {values['x_real_time']:.0f} x real time"
    return text


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Lines of a `metrics.jsonl`, see `read_log`."""
    return read_log(path)


def x_real_time(audio_seconds: float, seconds: float) -> float:
    """Hours of audio per hour."""
    return audio_seconds / seconds if seconds > 0 else float("nan")


def used_memory(device: torch.device) -> float | None:
    """Largest memory used on a GPU so far, in GiB; None on a CPU."""
    if device.type != "cuda":
        return None
    return torch.cuda.max_memory_allocated(device) / 2**30
