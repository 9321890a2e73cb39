"""Where a training is."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any


@dataclass
class Progress:
    """Where a training is; with the weights and the optimizer, all that a checkpoint needs."""

    epoch: int = 1
    """In progress; num_epochs + 1 after the last."""
    epoch_step: int = 0
    """Steps of that epoch so far."""
    step: int = 0
    """Steps so far, skipped ones included."""
    audio_seconds: float = 0.0
    """Of all processes, so far."""
    elapsed: float = 0.0
    """Seconds of training, over all restarts."""
    best_valid_loss: float | None = None
    """The recognition loss, per encoder frame."""
    validated_step: int = 0
    """Of the last validation."""
    nonfinite: int = 0
    """Steps skipped because of values that are not finite."""

    @classmethod
    def restore(cls, state: dict[str, Any]) -> Progress:
        """From a checkpoint's values, of which an earlier version may have had others."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in state.items() if name in known})

    @property
    def place(self) -> dict[str, float]:
        """What every line of the log begins with."""
        return {
            "step": self.step,
            "epoch": self.epoch,
            "audio_hours": self.audio_seconds / 3600,
            "elapsed": self.elapsed,
        }
