"""The interface of all teachers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn


@dataclass
class Embeddings:
    """A teacher's output for a batch of waveforms."""

    layers: dict[Any, Tensor]
    """Layer -> (N, T, D) float. Rows are padded; what is in the padding has no meaning. Of a
    teacher whose attention is recorded also (layer, part), see `record_attention`."""
    lens: Tensor
    """(N,) int64 valid frames."""


class Teacher(Protocol):
    """A frozen network from waveforms to embeddings of some of its layers.

    Layers are 1-based: layer i is the output of the i-th Transformer (or Conformer) layer, layer 0
    the input of the first. The last layer is what the network hands to its head: where the network
    ends with a normalization (pre-norm HuBERT, WavLM, wav2vec 2.0 "large"; Whisper), the last layer
    is after it, as Hugging Face's `last_hidden_state`; the other layers are not normalized.

    An utterance's embeddings do not depend on what it is batched with, up to rounding.
    """

    dim: int
    """D."""
    num_layers: int
    """Layers of the whole network."""
    frame_rate: float
    """Frames per second, Hz."""
    first_frame: float
    """Seconds from the beginning of the audio to the centre of the first frame."""
    ctc: CTCTranscriber | None
    """The head of a network that was fine-tuned for recognition, when its last layer was asked
    for."""

    def output_lens(self, lens: Tensor) -> Tensor:
        """(N,) samples -> (N,) frames, exactly as `__call__` returns them."""
        ...

    def __call__(self, waveforms: Tensor, lens: Tensor) -> Embeddings:
        """Embed 16 kHz audio in [-1, 1]: waveforms (N, S) float32 padded with zeros, lens (N,)
        valid samples, each long enough for one frame."""
        ...


class CTCTranscriber(nn.Module):
    """Logits of a CTC fine-tuned network, and their greedy decoding.

    Args:
        projection: (..., D) -> (..., V).
        labels: V symbols; `|` is the space between words.
        blank: index of the blank.
    """

    def __init__(self, projection: nn.Module, labels: list[str], blank: int) -> None:
        super().__init__()
        self.projection = projection
        self.labels = labels
        self.blank = blank

    def decode(self, last_layer: Tensor, lens: Tensor) -> list[str]:
        """Best path through (N, T, D) embeddings of the last layer -> N transcripts."""
        best = self.projection(last_layer).argmax(dim=-1)
        texts = []
        for row, length in zip(best, lens.tolist(), strict=True):
            symbols = torch.unique_consecutive(row[:length]).tolist()
            texts.append(self.spell([symbol for symbol in symbols if symbol != self.blank]))
        return texts

    def spell(self, symbols: Sequence[int]) -> str:
        """The text of symbols without blanks."""
        text = "".join(self.labels[symbol] for symbol in symbols)
        return " ".join(text.replace("|", " ").split())
