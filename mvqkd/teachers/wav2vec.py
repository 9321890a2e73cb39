"""The family of wav2vec 2.0, HuBERT, WavLM and data2vec-audio: convolutions over the waveform, then
a Transformer at 50 Hz."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mvqkd.geometry import SAMPLE_RATE
from mvqkd.teachers.interface import CTCTranscriber, Embeddings
from mvqkd.teachers.lengths import by_length, normalize


class Backbone(Protocol):
    """One library's network of this family, as `Wav2VecTeacher` uses it."""

    dim: int
    """D."""
    num_layers: int
    """Layers of the whole network; those above the highest wanted one may be gone."""
    convolutions: Sequence[tuple[int, int]]
    """(kernel, stride) of the convolutions over the waveform."""
    normalizes_over_time: bool
    """The convolutions normalize over the utterance's duration (group norm of the "base" models):
    padding would enter the statistics."""
    needs_equal_lengths: bool
    """The Transformer's positional convolutions make something of the padding's zeros."""

    def convolve(self, waveforms: Tensor) -> Tensor:
        """(N, S) -> (N, T, C)."""
        ...

    def transform(self, frames: Tensor, lens: Tensor) -> dict[Any, Tensor]:
        """(N, T, C), (N,) valid frames -> wanted layer -> (N, T, D)."""
        ...


class Wav2VecTeacher(nn.Module):
    """A `Teacher` on a backbone of this family.

    Args:
        backbone: the network; also an nn.Module.
        normalize_eps: the waveform is normalized to zero mean and unit variance with this added to
            the variance; None: it is not.
        ctc: head of a fine-tuned network.
    """

    def __init__(
        self, backbone: Backbone, *, normalize_eps: float | None, ctc: CTCTranscriber | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.normalize_eps = normalize_eps
        self.ctc = ctc
        self.dim = backbone.dim
        self.num_layers = backbone.num_layers
        hop, window = 1, 1
        for kernel, stride in backbone.convolutions:
            window += (kernel - 1) * hop
            hop *= stride
        self.frame_rate = SAMPLE_RATE / hop
        self.first_frame = window / 2 / SAMPLE_RATE

    def output_lens(self, lens: Tensor) -> Tensor:
        """(N,) samples -> (N,) frames."""
        for kernel, stride in self.backbone.convolutions:
            lens = torch.div(lens - kernel, stride, rounding_mode="floor") + 1
        return lens.clamp(min=0)

    def forward(self, waveforms: Tensor, lens: Tensor) -> Embeddings:
        """See `Teacher.__call__`."""
        if self.normalize_eps is not None:
            waveforms = normalize(waveforms, lens, self.normalize_eps)
        # In evaluation a frame of the convolutions depends on its 400 samples alone, and padding
        # cannot reach it; except where the first layer normalizes over time.
        if self.backbone.normalizes_over_time:
            rows = by_length(lambda x: {0: self.backbone.convolve(x)}, waveforms, lens)
            frames = rows[0]
        else:
            frames = self.backbone.convolve(waveforms)
        frame_lens = self.output_lens(lens)
        if self.backbone.needs_equal_lengths:
            layers = by_length(self._transform_equal, frames, frame_lens)
        else:
            layers = self.backbone.transform(frames, frame_lens)
        return Embeddings(layers, frame_lens)

    def _transform_equal(self, frames: Tensor) -> dict[Any, Tensor]:
        size = torch.full((len(frames),), frames.shape[1], device=frames.device)
        return self.backbone.transform(frames, size)
