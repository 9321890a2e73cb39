"""A teacher of your own: any network from 16 kHz waveforms to embeddings of its layers.

This one has no weights: layer 1 is log-mel energies, layer 2 their cepstrum, at 50 Hz. Put your
network in its place; `mvqkd.teachers.interface.Teacher` says what is expected of it.

    export PYTHONPATH=docs/examples/custom_teacher
    ./run.sh --exp mvq --variant mfcc --distillation.codes.teacher python:mfcc_teacher:load \\
        --distillation.codes.teacher_layer 2
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mvqkd.teachers.interface import CTCTranscriber, Embeddings

HOP, WINDOW, BINS = 320, 640, 40  # samples at 16 kHz: 50 frames a second


class MFCCTeacher(nn.Module):
    """Log-mel energies and their discrete cosine transform.

    Args:
        layers: wanted layers, 1-based; None: all.
    """

    filters: Tensor
    cosines: Tensor

    def __init__(self, layers: Sequence[int] | None) -> None:
        super().__init__()
        self.dim = BINS
        self.num_layers = 2
        self.frame_rate = 16000 / HOP
        self.first_frame = WINDOW / 2 / 16000
        self.ctc: CTCTranscriber | None = None  # it transcribes nothing
        self.layers = list(layers or (1, 2))
        self.register_buffer("filters", mel_filters(WINDOW // 2 + 1))
        angles = math.pi / BINS * torch.outer(torch.arange(BINS), torch.arange(BINS) + 0.5)
        self.register_buffer("cosines", angles.cos())

    def output_lens(self, lens: Tensor) -> Tensor:
        """(N,) samples -> (N,) frames: whole windows only, so that padding changes nothing."""
        return torch.div(lens - WINDOW, HOP, rounding_mode="floor").clamp(min=-1) + 1

    def forward(self, waveforms: Tensor, lens: Tensor) -> Embeddings:
        """Embeddings of a batch of waveforms (N, S) with (N,) valid samples."""
        windows = waveforms.unfold(1, WINDOW, HOP) * torch.hann_window(WINDOW).to(waveforms)
        energies = torch.fft.rfft(windows.float()).abs().square() @ self.filters
        log_mel = energies.clamp(min=1e-8).log()
        found = {1: log_mel, 2: log_mel @ self.cosines.T}
        return Embeddings({layer: found[layer] for layer in self.layers}, self.output_lens(lens))


def mel_filters(num_frequencies: int) -> Tensor:
    """(F, BINS) triangles, evenly spaced on the mel scale between 0 and 8000 Hz."""

    def mel(hertz: Tensor) -> Tensor:
        return 1127 * (1 + hertz / 700).log()

    edges = torch.linspace(0, float(mel(torch.tensor(8000.0))), BINS + 2)
    points = mel(torch.linspace(0, 8000, num_frequencies))[:, None]
    rising = (points - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - points) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0)


def load(layers: Sequence[int] | None) -> MFCCTeacher:
    """What `python:mfcc_teacher:load` calls."""
    return MFCCTeacher(layers)
