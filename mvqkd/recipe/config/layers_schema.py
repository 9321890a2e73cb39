"""The section `distillation.layers` of an experiment, see `mvqkd.recipe.config.schema`.

Only the standard library is imported.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from mvqkd.recipe.config.quantizer_schema import QuantizerConfig
from mvqkd.recipe.config.ranges import Range


@dataclass
class LayersConfig:
    """Auxiliary non-streaming layers (arXiv 2308.16415): branches on layers of the student, dropped
    after training, imitate layers of a teacher with full context. The losses are sums over an
    utterance's frames and over the pairs of layers."""

    weight: Annotated[float, Range(0)] = 0.0
    """Weight of the weighted sum of the three losses below, in which 1 is the paper's; 0: off."""
    final_weight_fraction: Annotated[float, Range(0, 1)] = 1.0
    """The weight falls linearly to this fraction of it at the last step."""
    teacher: str = ""
    """The teacher, which runs beside the student, on audio without noise and masks. An experiment
    with full context: `mvqkd:EXPERIMENT` (of the same recipe, or the folder of any); or another
    network: `hf:ID_OR_FOLDER`, `torchaudio:NAME`."""
    source: Literal["teacher", "embeddings", "codes"] = "teacher"
    """`teacher`: it runs beside the student. `embeddings`, `codes`: stored ones of one layer of any
    teacher take its place, for the losses of features and of the future; codes are decoded."""
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)
    """Quantizer of the codes, with the source `codes`."""
    targets: str = ""
    """Folder of existing codes or embeddings; empty: those made by the recipe's stages."""
    teacher_layer: Annotated[list[int], Range(1)] = field(default_factory=list)
    """Layers of the teacher, 1-based; empty: those at the quarters of its depth. One, where its
    embeddings or codes are stored."""
    layer: Annotated[list[int], Range(1)] = field(default_factory=list)
    """Layers of the student's encoder, each paired with the one of teacher_layer at its place, or
    all with the one that is stored; empty: those at the quarters of its depth."""
    feature_weight: Annotated[float, Range(0)] = 0.01
    """Weight of the distance between frames, l1 and cosine similarity; 0: off."""
    relation_weight: Annotated[float, Range(0)] = 0.0005
    """Weight of the divergences between relations of queries, keys and values; 0: off."""
    future_weight: Annotated[float, Range(0)] = 0.005
    """Weight of the distance between the prediction and the frame future_shift later; 0: off, and
    the branches attend to all frames."""
    future_shift: Annotated[int, Range(1)] = 4
    """Frames of 40 ms between a frame and the one that is predicted; the branches do not attend to
    the frames from the next one to it."""
    branch: Literal["transformer", "projection"] = "transformer"
    """`transformer`: projection, a non-streaming Transformer layer, and an LSTM for the future;
    `projection` alone: distillation straight to the student's layers, by feature_weight only."""
    num_heads: Annotated[int, Range(0)] = 0
    """Attention heads of a branch, which divide the teacher's width; 0: as many as the teacher, or
    8 where no relations are imitated of a network that is not ours."""
    feedforward_dim: Annotated[int, Range(0, 65536)] = 0
    """Inner width of a branch's feed-forward module; 0: four times the teacher's width."""
    dropout: Annotated[float, Range(0, 1, open_high=True)] = 0.1
    """Dropout of the residual branches of the Transformer layer."""
