"""Distillation losses, beside those of transcripts.

Every loss of a step receives a `LossContext`. `LayerDistillation` is a `DistillationLoss`: it reads
a tap of the student's encoder, takes the teacher's side from the batch, and leaves the comparison
to a head: `CodebookHead`, `SoftCodebookHead`, `TiedCodebookHead` or `JointCodebookHead` (MVQ-KD),
or `RegressionHead` (l1, l2, cosine, KLD). The teacher's side is stored (`StoredTargets`), decoded
from stored codes (`DecodedCodes`) or computed by the teacher itself (`OnlineTeacher`).

`AuxiliaryLayers` is another: branches with full context on layers of a streaming student imitate
layers of an encoder of our own (`EncoderTeacher`) or of a teacher of audio (`AudioLayers`), or
stored frames (`StoredLayer`), and are dropped after training.
`OutputDistillation` imitates the token probabilities of a transducer (`OutputTeacher`),
`DualMode` those of the student's own pass with full context. `TokenDivergence` draws the student's
attention decoder to that of an encoder-decoder of our own (`DecoderTeacher`).
"""

from mvqkd.distillation.auxiliary import AuxiliaryLayers
from mvqkd.distillation.codes import (
    CodebookHead,
    JointCodebookHead,
    SoftCodebookHead,
    TiedCodebookHead,
)
from mvqkd.distillation.context import DistillationLoss, EncoderPass, LossContext, TransducerBand
from mvqkd.distillation.decoder_outputs import DecoderTeacher, TokenDivergence
from mvqkd.distillation.dual_mode import DualMode
from mvqkd.distillation.embeddings import RegressionHead
from mvqkd.distillation.encoder_teacher import EncoderTeacher
from mvqkd.distillation.foreign_layers import AudioLayers, StoredLayer
from mvqkd.distillation.layer import LayerDistillation
from mvqkd.distillation.outputs import OutputDistillation, OutputTeacher
from mvqkd.distillation.targets import DecodedCodes, OnlineTeacher, StoredTargets

__all__ = [
    "AudioLayers",
    "AuxiliaryLayers",
    "CodebookHead",
    "DecodedCodes",
    "DecoderTeacher",
    "DistillationLoss",
    "DualMode",
    "EncoderPass",
    "EncoderTeacher",
    "JointCodebookHead",
    "LayerDistillation",
    "LossContext",
    "OnlineTeacher",
    "OutputDistillation",
    "OutputTeacher",
    "RegressionHead",
    "SoftCodebookHead",
    "StoredLayer",
    "StoredTargets",
    "TiedCodebookHead",
    "TokenDivergence",
    "TransducerBand",
]
