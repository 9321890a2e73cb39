"""The sections `quantizer` of distillation losses, see `mvqkd.recipe.config.schema`.

Only the standard library is imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from mvqkd.recipe.config.ranges import Range


@dataclass
class QuantizerConfig:
    """The quantizer whose codes are the targets, and how they are chosen."""

    num_codebooks: Annotated[int, Range(1, 32)] = 8
    """Number of codebooks, each with one 8-bit index for every teacher frame."""
    rate_distortion_weight: Annotated[float, Range(0)] = 0.0
    """Weight of a rate in the choice of codes: the squared error plus this x the embeddings' energy
    x the codes' negative log-probability (nats), as a small network predicts it from the
    utterance's features. Larger: codes that are easier to predict, and a worse reconstruction; the
    quantizer's report has what 0.001 to 0.03 do. 0: the nearest codes."""
    sample_utterances: Annotated[int, Range(0)] = 1000
    """Number of utterances that the quantizer is trained on; 0: all."""
    num_steps: Annotated[int, Range(0)] = 0
    """Training steps of the quantizer; 0: its default."""
    weighting: Literal["none", "deviation"] = "none"
    """Weights of the embeddings' dimensions in the squared error that codes are chosen by.
    `deviation`: inverse to their variance, for teachers with a few dimensions of huge variance."""
    file: str = ""
    """File of an existing quantizer to use instead of training one: of this package, or a state
    dict of `multi_quantization` as saved by icefall's recipe. With codes as `targets`: the
    quantizer that made them (checked), needed by losses that use more than the codes."""
