"""What attention encoder-decoders add to the sections of an experiment, see
`mvqkd.recipe.config.schema`.

Only the standard library is imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from mvqkd.recipe.config.ranges import Range


@dataclass
class DecoderConfig:
    """The attention decoder, with loss.attention_scale."""

    kind: Literal["transformer", "gru"] = "transformer"
    """`transformer`, or `gru`: GRU layers with location-aware attention (arXiv 1506.07503)."""
    dim: Annotated[int, Range(1, 65536)] = 256
    """Width; of `gru` that of the encoder, model.dim."""
    num_layers: Annotated[int, Range(1, 1000)] = 3
    """Number of layers."""
    num_heads: Annotated[int, Range(1)] = 4
    """Attention heads of `transformer`; must divide dim."""
    feedforward_dim: Annotated[int, Range(1, 65536)] = 1024
    """Inner width of the feed-forward modules of `transformer`."""
    dropout: Annotated[float, Range(0, 1, open_high=True)] = 0.1
    """Dropout, of embeddings and residual branches or between GRU layers."""


@dataclass
class AttentionLossConfig:
    """Training of the attention decoder."""

    attention_scale: Annotated[float, Range(0)] = 0.0
    """Weight of the attention decoder's cross-entropy; 0: no attention decoder."""
    label_smoothing: Annotated[float, Range(0, 1, open_high=True)] = 0.1
    """Share of the label of the attention decoder that is spread over all tokens."""
    teacher_forcing: Annotated[float, Range(0, 1)] = 1.0
    """Probability that the decoder `gru` receives the token of the transcript in training, and not
    the one that it found most probable itself (scheduled sampling)."""


@dataclass
class AttentionSearchConfig:
    """Decoding with the attention decoder."""

    length_exponent: Annotated[float, Range(0)] = 1.0
    """`attention_beam_search` ranks by log-probability / tokens^length_exponent; 0: no
    normalization, larger values: longer transcripts."""
    ctc_weight: Annotated[float, Range(0, 1, open_high=True)] = 0.0
    """Weight of CTC's log-probability in `attention_beam_search`, 1 less it that of the decoder's;
    needs a CTC head."""
    max_tokens_per_frame: Annotated[float, Range(0, open_low=True)] = 1.0
    """An attention search ends an utterance at this many tokens for each frame of 40 ms."""


@dataclass
class TokensConfig:
    """Token probabilities of a teacher's attention decoder, which runs beside the student on the
    same tokens (arXiv 1606.07947, section 3.1). The student needs a decoder too."""

    weight: Annotated[float, Range(0)] = 0.0
    """Weight of the divergence, summed over tokens like the cross-entropy; 0: off."""
    final_weight_fraction: Annotated[float, Range(0, 1)] = 1.0
    """The weight falls linearly to this fraction of it at the last step."""
    teacher: str = ""
    """URI of the teacher, an experiment with an attention decoder and the same tokens:
    `mvqkd:EXPERIMENT`."""
    temperature: Annotated[float, Range(0, open_low=True)] = 1.0
    """Temperature of both distributions."""
