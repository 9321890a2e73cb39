"""100 Hz filterbanks to 25 Hz frames of the model's width, without padding in time."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

RECEPTIVE_FIELD = 7  # input frames that one output frame sees; output t starts at input 4t


def subsampled_lens(lens: Tensor) -> Tensor:
    """25 Hz output frames of `lens` 100 Hz input frames: n need 4n + 3; 0 when too short."""
    return ((lens - 3) // 4).clamp(min=0)


class ConvSubsampling(nn.Module):
    """Two 3x3 convolutions of stride 2, the second depthwise-separable, then a projection.

    Time is never padded, so output frame t is a function of the input frames 4t .. 4t + 6 alone:
    chunks of 4n + 3 input frames taken every 4n frames give exactly the frames of the whole
    utterance, without any cache. Frequency is padded by one bin on each side.

    The input is log-mel energy as computed (natural logarithm, roughly -16 .. 0), so a fixed
    affine map brings it near zero mean and unit variance before the first convolution, and a
    LayerNorm follows the projection. Neither uses statistics of other frames, so both are exact
    in streaming, and nothing has to be estimated from data or shipped beside the model.

    Args:
        input_dim: C, filterbank channels.
        dim: D, width of the output.
        channels: feature maps of both convolutions.
    """

    # Mean and standard deviation of log-mel energies of read 16 kHz speech, rounded.
    FEATURE_MEAN = -8.0
    FEATURE_STD = 4.0

    def __init__(self, *, input_dim: int, dim: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, channels, kernel_size=3, stride=2, padding=(0, 1))
        self.depthwise = nn.Conv2d(
            channels, channels, kernel_size=3, stride=2, padding=(0, 1), groups=channels
        )
        self.pointwise = nn.Linear(channels, channels)
        bins = ((input_dim - 1) // 2) // 2 + 1
        self.project = nn.Linear(channels * bins, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, features: Tensor) -> Tensor:
        """(N, T, C) log-mel energies, T >= 7 -> (N, (T - 3) // 4, D)."""
        x = (features - self.FEATURE_MEAN) * (1.0 / self.FEATURE_STD)
        x = F.silu(self.conv(x.unsqueeze(1)))
        x = self.depthwise(x).permute(0, 2, 3, 1)  # (N, T', bins, channels)
        x = F.silu(self.pointwise(x))
        return self.norm(self.project(x.flatten(2)))


def pad_short(features: Tensor) -> Tensor:
    """Pad (N, T, C) at the end to the receptive field, so that very short batches run too."""
    missing = RECEPTIVE_FIELD - features.size(1)
    return F.pad(features, (0, 0, 0, missing)) if missing > 0 else features
