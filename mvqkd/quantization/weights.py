"""Weights of dimensions in the squared error that codes are chosen by."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from mvqkd.quantization.frames import Frames, sample

Weighting = Literal["none", "deviation"]

_FRAMES = 32768
# Of the mean variance; what varies less is noise.
_SMALLEST_VARIANCE = 1e-3


def dimension_scales(frames: Frames, weighting: Weighting) -> Tensor | None:
    """Square roots of the weights (D,) of dimensions; None: all have the weight 1.

    Args:
        frames: of the teacher.
        weighting: `none`, or `deviation`: inverse to the variance, so that every dimension counts
            alike, whatever its units. The weighted energy of all dimensions is that without
            weights.

    Raises:
        ValueError: another weighting, or frames that are all equal.
    """
    if weighting == "none":
        return None
    if weighting != "deviation":
        raise ValueError(f"weighting must be 'none' or 'deviation', not {weighting!r}")
    x = sample(frames, _FRAMES).double()
    variances = x.var(dim=0, correction=0)
    if not variances.any():
        raise ValueError("all frames are equal: there is nothing to quantize")
    weights = 1 / variances.clamp(min=_SMALLEST_VARIANCE * float(variances.mean()))
    weights *= variances.sum() / (weights * variances).sum()
    return weights.sqrt().float()


class ScaledFrames:
    """Frames whose dimensions are multiplied with scales (D,): `Frames`."""

    def __init__(self, frames: Frames, scales: Tensor) -> None:
        self._frames, self._scales = frames, scales
        self.num_frames, self.dim = frames.num_frames, frames.dim

    def read(self, begin: int, end: int) -> Tensor:
        """See `Frames.read`."""
        return self._frames.read(begin, end).float() * self._scales

    def describe(self, row: int) -> str:
        """See `Frames.describe`."""
        return self._frames.describe(row)
