"""What a stream remembers between chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class EncoderState(NamedTuple):
    """State of N streams; sherpa-onnx's layout of a `conformer`. Zeros at the beginning."""

    attention: Tensor
    """(num_layers, left_context, N, D): inputs of each layer's attention at the last frames. Layers
    of half the rate use the last half of them; the first is zero."""
    convolution: Tensor
    """(num_layers, conv_kernel - 1, N, D): inputs of each layer's depthwise convolution."""
    processed: Tensor
    """(N,) int64: 100 Hz input frames consumed so far."""

    @staticmethod
    def stack(states: Sequence[EncoderState]) -> EncoderState:
        """Join states of any numbers of streams, at any positions, into one batch."""
        return EncoderState(
            torch.cat([state.attention for state in states], dim=2),
            torch.cat([state.convolution for state in states], dim=2),
            torch.cat([state.processed for state in states]),
        )

    def unstack(self) -> list[EncoderState]:
        """One state of batch size 1 for each stream; the inverse of `stack`."""
        # Copies: views of the batch's tensors would keep the states of all its streams alive.
        return [
            EncoderState(*(part.clone() for part in parts))
            for parts in zip(
                self.attention.split(1, dim=2),
                self.convolution.split(1, dim=2),
                self.processed.split(1),
                strict=True,
            )
        ]
