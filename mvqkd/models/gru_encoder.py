"""Recurrent encoder: two convolutions and bidirectional GRUs, as in sequence-level distillation
(Mun'im et al. 2019, arXiv 1811.04531, section 4.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from mvqkd.geometry import NUM_BINS, SUBSAMPLING, encoder_frames
from mvqkd.models.dropout import Dropout
from mvqkd.models.masks import valid_frames
from mvqkd.models.subsampling import ConvSubsampling, pad_short
from mvqkd.models.taps import Taps

_TIME_KERNEL, _BIN_KERNEL = 5, 8


class GruEncoder(nn.Module):
    """Two 2-d convolutions of stride 2 x 2 and a stack of bidirectional GRU layers.

    Time is padded so that the frames are those of `ConformerEncoder`: frame t is centred at the
    input frame 4t + 3. Both directions are concatenated between layers and added at the end: with
    the paper's 161 spectrogram bins the models have its numbers of parameters then. It cannot
    stream.

    Args:
        input_dim: C, filterbank channels.
        dim: D, cells of each direction, and width of the output.
        num_layers: GRU layers.
        dropout: between layers and of the output.
        channels: feature maps of each convolution.

    Raises:
        ValueError: C is too small for the convolutions.
    """

    subsampling_factor = SUBSAMPLING
    causal = False

    def __init__(
        self,
        *,
        input_dim: int = NUM_BINS,
        dim: int = 256,
        num_layers: int = 4,
        dropout: float = 0.4,
        channels: int = 32,
    ) -> None:
        super().__init__()
        bins = input_dim
        for _ in range(2):
            bins = (bins - _BIN_KERNEL) // 2 + 1
        if bins < 1:
            raise ValueError(f"input_dim={input_dim} is too small for two convolutions")
        self.input_dim = input_dim
        self.dim = dim
        kernel = (_TIME_KERNEL, _BIN_KERNEL)
        self.conv_in = nn.Conv2d(1, channels, kernel, stride=2, padding=(1, 0))
        self.conv_out = nn.Conv2d(channels, channels, kernel, stride=2, padding=(1, 0))
        sizes = [channels * bins, *[2 * dim] * (num_layers - 1)]
        self.layers = nn.ModuleList(
            nn.GRU(size, dim, batch_first=True, bidirectional=True) for size in sizes
        )
        self.dropout = Dropout(dropout)

    @property
    def num_layers(self) -> int:
        """GRU layers."""
        return len(self.layers)

    def output_lens(self, lens: Tensor) -> Tensor:
        """(N,) 100 Hz input frames -> (N,) 25 Hz output frames; n need 4n + 3 input frames."""
        return encoder_frames(lens)

    def tap_names(self) -> list[str]:
        """Every name that `Taps` may ask for; `layers.K` is the sum of both directions."""
        return [*(f"layers.{index}" for index in range(1, self.num_layers + 1)), "output"]

    def forward(
        self,
        features: Tensor,
        lens: Tensor,
        *,
        chunk_size: int | None = None,
        left_context: int | None = None,
        taps: Taps | None = None,
        num_layers: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Encode whole utterances; arguments, results and errors as in `ConformerEncoder.forward`.

        Raises:
            ValueError: chunk_size is given.
        """
        if chunk_size is not None:
            raise ValueError("a bidirectional encoder has no chunks: chunk_size must be None")
        if features.size(-1) != self.input_dim:
            raise ValueError(
                f"the encoder takes {self.input_dim} feature channels, not {features.size(-1)}"
            )
        if taps is not None:
            taps.check(self.tap_names())
        out_lens = self.output_lens(lens)
        x = self._convolve(pad_short(features), lens)
        # Packing needs a frame of every utterance, and its lengths on the CPU.
        packed_lens = out_lens.clamp(min=1).cpu()
        valid = valid_frames(out_lens, x.size(1)).unsqueeze(-1)
        for index, layer in enumerate(self.layers[:num_layers], start=1):
            packed = pack_padded_sequence(x, packed_lens, batch_first=True, enforce_sorted=False)
            x, _ = pad_packed_sequence(layer(packed)[0], batch_first=True, total_length=x.size(1))
            x = self.dropout(x)
            if taps is not None:
                taps.put(f"layers.{index}", _add_directions(x) * valid)
        x = _add_directions(x) * valid
        if taps is not None:
            taps.put("output", x)
        return x, out_lens

    def _convolve(self, features: Tensor, lens: Tensor) -> Tensor:
        """(N, T, C) -> (N, T', channels * bins). What follows an utterance is zero before each
        convolution, as what follows the longest is."""
        x = (features - ConvSubsampling.FEATURE_MEAN) * (1.0 / ConvSubsampling.FEATURE_STD)
        x = x * valid_frames(lens, x.size(1)).unsqueeze(-1)
        x = x.unsqueeze(1).to(memory_format=torch.channels_last)
        x = F.relu(self.conv_in(x))
        x = x * valid_frames((lens - 1) // 2, x.size(2))[:, None, :, None]
        x = F.relu(self.conv_out(x))
        return x.transpose(1, 2).flatten(2)


def _add_directions(x: Tensor) -> Tensor:
    """(N, T, 2 D) -> (N, T, D)."""
    forwards, backwards = x.chunk(2, dim=-1)
    return forwards + backwards
