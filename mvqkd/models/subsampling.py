"""100 Hz filterbanks to 25 Hz frames of the model's width, without padding in time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvqkd.geometry import RECEPTIVE_FIELD


def pad_short(features: Tensor) -> Tensor:
    """Pad (N, T, C) at the end to the receptive field, so that very short batches run too."""
    missing = RECEPTIVE_FIELD - features.size(1)
    return F.pad(features, (0, 0, 0, missing)) if missing > 0 else features


class ConvSubsampling(nn.Module):
    """Two 3x3 convolutions of stride 2, then a projection.

    Time is never padded, so output frame t is a function of the input frames 4t .. 4t + 6 alone:
    chunks of 4n + 3 input frames taken every 4n frames give exactly the frames of the whole
    utterance, without any cache. Frequency is padded by one bin on each side.

    The input is log-mel energy as computed: natural logarithm, from -15.9 (silence), of mean -7.1
    and standard deviation 4.0 over 12 minutes of LibriSpeech. A fixed affine map brings it to about
    zero mean and unit variance before the first convolution, and a LayerNorm follows the
    projection. Neither uses statistics of other frames, so both are exact in streaming, and
    nothing has to be estimated from data or shipped beside the model.

    Args:
        input_dim: C, filterbank channels.
        dim: D, width of the output.
        channels: feature maps of the second convolution. The first has a quarter of them: it
            works at 16 times the rate of the output's bins, and would cost most.
    """

    FEATURE_MEAN = -7.0
    FEATURE_STD = 4.0

    def __init__(self, *, input_dim: int, dim: int, channels: int) -> None:
        super().__init__()
        first = max(1, channels // 4)
        self.conv_in = nn.Conv2d(1, first, kernel_size=3, stride=2, padding=(0, 1))
        self.conv_out = nn.Conv2d(first, channels, kernel_size=3, stride=2, padding=(0, 1))
        bins = (input_dim + 3) // 4
        self.project = nn.Linear(channels * bins, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, features: Tensor) -> Tensor:
        """(N, T, C) log-mel energies, T >= 7 -> (N, (T - 3) // 4, D)."""
        x = (features - self.FEATURE_MEAN) * (1.0 / self.FEATURE_STD)
        # Channels last, in which convolutions and their gradients take less time.
        x = x.unsqueeze(1).to(memory_format=torch.channels_last)
        x = F.silu(self.conv_in(x))
        x = F.silu(self.conv_out(x))  # (N, channels, T', bins)
        return self.norm(self.project(x.transpose(1, 2).flatten(2)))
