"""The encoder of Whisper as a teacher (Radford et al. 2022), at 50 Hz."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvqkd.errors import UserError
from mvqkd.geometry import SAMPLE_RATE, SHIFT_SAMPLES, WINDOW_SAMPLES
from mvqkd.teachers.attention import AttentionRecorder
from mvqkd.teachers.interface import CTCTranscriber, Embeddings
from mvqkd.teachers.layers import choose_layers
from mvqkd.teachers.lengths import valid_mask

_HOP = SHIFT_SAMPLES
_FFT = WINDOW_SAMPLES


class _Piece(NamedTuple):
    """A window over an utterance."""

    row: int
    """Of the batch."""
    start: int
    """First mel frame, even."""
    begin: int
    """First frame of the utterance's embeddings that is taken from this window."""
    end: int
    """Frame after the last of these."""


class WhisperTeacher(nn.Module):
    """A `Teacher` on transformers' `WhisperEncoder`.

    Whisper was trained on windows of 30 s, the audio followed by silence. The encoder here
    receives the audio and only some of that silence, which costs less and changes the embeddings:
    the last layer of Whisper tiny.en by 0.6 % of its variance in utterances of 14 s, 1.2 % in those
    of 8 s, 7 % in those of 2 s (`test_less_silence_changes_the_real_encoder_little`; `silence=30`
    changes nothing). Audio longer than a window is split into windows that overlap by `overlap`,
    and each frame is taken from the window in which it is farther from an edge.

    Args:
        encoder: transformers' encoder.
        mel_filters: (201, mel bins) of its feature extractor.
        layers: wanted layers; None: all.
        silence: seconds of silence that the encoder receives after the audio, as far as the
            window goes; 30 is the window that Whisper was trained on.
        overlap: seconds that windows of longer audio overlap.
        position_directions: directions of the embeddings that are set to zero because they encode a
            frame's position in the window, which the audio does not determine and a student cannot
            predict: the principal axes of the response to a window of silence, whose frames differ
            only in position. 0 changes nothing.

    Raises:
        UserError: position_directions is negative, or not below the embeddings' dimension.
    """

    ctc: CTCTranscriber | None = None
    filters: Tensor
    hann: Tensor
    frame_rate = SAMPLE_RATE / _HOP / 2
    # The windows of the spectrogram are centred, and the convolutions padded.
    first_frame = 0.0

    def __init__(
        self,
        encoder: Any,
        mel_filters: Tensor,
        layers: Sequence[int] | None,
        *,
        silence: float = 2.0,
        overlap: float = 5.0,
        position_directions: int = 0,
    ) -> None:
        super().__init__()
        self.num_layers = len(encoder.layers)
        self.wanted = choose_layers(layers, self.num_layers)
        self.dim = encoder.config.d_model
        self.window = 2 * encoder.config.max_source_positions  # mel frames
        self.silence = round(silence * SAMPLE_RATE / _HOP)
        self.overlap = round(overlap * SAMPLE_RATE / _HOP)
        self.conv1, self.conv2 = encoder.conv1, encoder.conv2
        self.positions = encoder.embed_positions
        self.layers = encoder.layers[: max(self.wanted)]
        self.norm = encoder.layer_norm
        self.transformer_layers = list(self.layers)
        self.recorder: AttentionRecorder | None = None
        self.register_buffer("filters", mel_filters.float(), persistent=False)
        self.register_buffer("hann", torch.hann_window(_FFT), persistent=False)
        if not 0 <= position_directions < self.dim:
            raise UserError(
                f"position_directions={position_directions} of {self.dim} dimensions",
                remedy=f"give 0 to {self.dim - 1}",
            )
        self.position_directions = position_directions
        self._positional: dict[int, Tensor] = {}

    def output_lens(self, lens: Tensor) -> Tensor:
        """(N,) samples -> (N,) frames."""
        return torch.div(torch.div(lens, _HOP, rounding_mode="floor") + 1, 2, rounding_mode="floor")

    def forward(self, waveforms: Tensor, lens: Tensor) -> Embeddings:
        """See `Teacher.__call__`."""
        mel = self.log_mel(waveforms, lens)
        mel_lens = torch.div(lens, _HOP, rounding_mode="floor")
        pieces = [
            _Piece(row, *span)
            for row, length in enumerate(mel_lens.tolist())
            for span in self._spans(length)
        ]
        received = torch.tensor(
            [min(self.window, int(mel_lens[p.row]) - p.start + self.silence) for p in pieces],
            device=mel.device,
        )
        size = int(received.max())
        windows = [F.pad(mel[p.row, :, p.start :], (0, size))[:, :size] for p in pieces]
        found = self.encode(torch.stack(windows), received)
        if self.position_directions:
            found = found | {
                layer: self._without_position(layer, found[layer]) for layer in self.wanted
            }
        frame_lens = self.output_lens(lens)
        layers = {
            layer: x.new_zeros(len(waveforms), int(frame_lens.max()), self.dim)
            for layer, x in found.items()
        }
        for index, p in enumerate(pieces):
            first = p.start // 2
            for layer, x in found.items():
                layers[layer][p.row, p.begin : p.end] = x[index, p.begin - first : p.end - first]
        return Embeddings(layers, frame_lens)

    def log_mel(self, waveforms: Tensor, lens: Tensor) -> Tensor:
        """(N, S), (N,) -> (N, mel bins, T): Whisper's features of each utterance followed by
        `silence` seconds of zeros, as if in a whole window; 100 Hz."""
        with torch.autocast(waveforms.device.type, enabled=False):
            audio = waveforms.float() * valid_mask(lens, waveforms.shape[1])
            audio = F.pad(audio, (0, self.silence * _HOP + _FFT))
            spectrum = torch.stft(
                audio, _FFT, _HOP, window=self.hann, center=True, return_complex=True
            )
            power = spectrum[..., :-1].abs().square()
            mel = torch.matmul(self.filters.T, power).clamp(min=1e-10).log10()
            floor = mel.amax(dim=(1, 2), keepdim=True) - 8.0
            return (torch.maximum(mel, floor) + 4.0) / 4.0

    def _spans(self, length: int) -> list[tuple[int, int, int]]:
        """(start, begin, end) of each window over `length` mel frames, see `_Piece`."""
        frames = (length + 1) // 2
        if length <= self.window:
            return [(0, 0, frames)]
        count = math.ceil((length - self.overlap) / (self.window - self.overlap))
        last = length + length % 2 - self.window
        starts = [2 * (last * index // (count - 1) // 2) for index in range(count)]
        # Neighbours share the frames from the later's start to the earlier's end: half for each.
        middles = [(a + self.window + b) // 4 for a, b in itertools.pairwise(starts)]
        return list(zip(starts, [0, *middles], [*middles, frames], strict=True))

    def _without_position(self, layer: int, x: Tensor) -> Tensor:
        """(W, T, D) embeddings of a layer, without their components along the axes of position."""
        if not self._positional:
            with torch.autocast(x.device.type, enabled=False):
                silence = torch.zeros(1, self.window * _HOP, device=x.device)
                lens = torch.tensor([silence.shape[1]], device=x.device)
                mel = self.log_mel(silence, lens)[..., : self.window]
                responses = self.encode(mel, torch.tensor([self.window], device=x.device))
            for index in self.wanted:
                response = responses[index][0].float()
                _, _, axes = torch.linalg.svd(response - response.mean(dim=0), full_matrices=False)
                self._positional[index] = axes[: self.position_directions]
        axes = self._positional[layer].to(x)
        return x - x @ axes.T @ axes

    def encode(self, mel: Tensor, received: Tensor) -> dict[Any, Tensor]:
        """(W, mel bins, T), (W,) mel frames received -> wanted layer -> (W, T/2, D)."""
        valid = valid_mask(received, mel.shape[2])
        # Beyond the frames received the convolutions get zeros, as at the edge of a tensor.
        x = F.gelu(self.conv1(mel * valid[:, None]))
        x = F.gelu(self.conv2(x * valid[:, None])).transpose(1, 2)
        x = x + self.positions.weight[: x.shape[1]]
        found = {0: x}
        keys = valid_mask(torch.div(received + 1, 2, rounding_mode="floor"), x.shape[1])
        mask = torch.zeros(keys.shape, dtype=x.dtype, device=x.device).masked_fill(
            ~keys, torch.finfo(x.dtype).min
        )
        for index, layer in enumerate(self.layers, start=1):
            x = layer(x, mask[:, None, None, :].expand(-1, 1, x.shape[1], -1))
            found[index] = x
        if len(self.layers) == self.num_layers:
            found[self.num_layers] = self.norm(x)
        attention = self.recorder.take() if self.recorder else {}
        return {layer: found[layer] for layer in self.wanted} | attention
