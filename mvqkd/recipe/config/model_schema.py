"""The section `model` of an experiment, see `mvqkd.recipe.config.schema`.

Only the standard library is imported.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from mvqkd.recipe.config.attention_schema import DecoderConfig
from mvqkd.recipe.config.ranges import Positive, Range, Size


@dataclass
class ModelConfig:
    """The student: encoder, stateless predictor and joiner, attention decoder."""

    encoder: Literal["conformer", "gru"] = "conformer"
    """`conformer`, or `gru`: two convolutions and bidirectional GRUs (arXiv 1811.04531), of which
    only dim, num_layers and dropout are options."""
    dim: Size = 256
    """Width of the encoder's layers."""
    num_layers: Annotated[int, Range(1, 1000)] = 12
    """Number of Conformer layers."""
    num_heads: Positive = 4
    """Attention heads per layer; must divide dim."""
    feedforward_dim: Size = 1024
    """Inner width of the two feed-forward modules of a layer."""
    conv_kernel: Annotated[int, Range(1, 1001)] = 15
    """Kernel size of a layer's depthwise convolution, in frames of 40 ms; odd unless causal."""
    dropout: Annotated[float, Range(0, 1, open_high=True)] = 0.1
    """Dropout of every residual branch of the encoder."""
    attention_dropout: Annotated[float, Range(0, 1, open_high=True)] = 0.0
    """Dropout of the weights of frames in attention."""
    layer_drop: Annotated[float, Range(0, 1, open_high=True)] = 0.0
    """Stochastic depth (arXiv 1603.09382): probability that an utterance passes by the last layer
    in training; it grows linearly with depth."""
    subsampling_channels: Size = 32
    """Feature maps of the subsampling's second convolution; the first has a quarter of them."""
    half_rate: Annotated[list[int], Range(1)] = field(default_factory=list)
    """First and last of the layers that work at 12.5 Hz, on averages of two frames, such as [2, 5];
    empty: none. Chunk sizes and left context must be even then."""
    causal: bool = False
    """Use causal convolutions; a streaming student needs them, and is trained with chunk_size."""
    chunk_size: Annotated[list[int], Range(1, also=-1)] = field(default_factory=list)
    """Chunk size of a streaming student, in frames of 40 ms. One value: always that size; several:
    one is drawn at random for each step (dynamic chunk training; -1 is the whole utterance);
    none: full context."""
    left_context: Annotated[int, Range(-1)] = -1
    """Left context that a chunk attends to, in frames of 40 ms; -1: unlimited."""
    predictor_dim: Size = 256
    """Width of the predictor."""
    context_size: Annotated[int, Range(1, 100)] = 2
    """Number of previous tokens that the stateless predictor receives."""
    joiner_dim: Size = 256
    """Width of the joiner."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """The attention decoder."""
