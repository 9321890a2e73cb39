"""What the training loop is given."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from mvqkd.data.loading.batch import Batch


class Steps(Protocol):
    """Steps of one process, such as `mvqkd.data.loading.batch_loader.BatchLoader`; as many in every
    epoch and of every process."""

    def set_epoch(self, epoch: int, first: int = 0) -> None:
        """Go to step `first` (from 0) of an epoch (from 1)."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[list[Batch]]:
        """The batches of each step; none where the process has no part of it."""
        ...


class LoopSettings(Protocol):
    """Numbers that the loop goes by."""

    num_epochs: int
    """Passes over the training batches."""
    average_period: int
    """Steps between updates of the running average of the weights."""
    log_interval: int
    """Steps between lines of the log."""
    valid_interval: int
    """Steps between validations; 0: at the end of every epoch."""
    save_interval: int
    """Steps between checkpoints."""
    keep_checkpoints: int
    """Checkpoints kept; -1: all."""
    keep_epochs: int
    """Files of weights of epochs kept; -1: all."""
    max_nonfinite: int
    """Steps skipped because of values that are not finite, after which training stops."""
