"""Which epochs' files an average needs. Imports nothing: a configuration is checked with it before
torch is there."""

from __future__ import annotations


def needed_epochs(epoch: int, avg: int, *, use_averaged_model: bool) -> list[int]:
    """Epochs, ascending, whose `epoch-N.pt` the average over `avg` epochs up to `epoch` is made of.

    The average of the running average over a range follows from its two ends (see
    `mvqkd.checkpoints.averaging`): the epoch before the range, unless it begins at the beginning,
    and its last one. The average of the weights at the ends of epochs needs all of them.

    Args:
        epoch: counts from 1.
        avg: at least 1 and at most `epoch`.
        use_averaged_model: which of the two.
    """
    if use_averaged_model:
        return [epoch - avg, epoch] if epoch > avg else [epoch]
    return list(range(epoch - avg + 1, epoch + 1))
