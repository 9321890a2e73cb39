"""What a student learns from a teacher beside transcripts.

`LayerDistillation` is an auxiliary loss of `mvqkd.training.objective.Objective`: it reads a tap of
the student's encoder, gets the teacher's side from a source of targets, and leaves the comparison
to a head: `CodebookHead`, `SoftCodebookHead`, `TiedCodebookHead` or `JointCodebookHead` (MVQ-KD),
or `RegressionHead` (l1, l2, cosine, KLD). Sources are files (`StoredCodes`, what a quantizer makes
of them: `DecodedCodes`, `StoredEmbeddings`) or the teacher itself (`LiveEmbeddings`).
"""

from mvqkd.distillation.codebook import (
    CodebookHead,
    JointCodebookHead,
    SoftCodebookHead,
    TiedCodebookHead,
)
from mvqkd.distillation.layer import LayerDistillation
from mvqkd.distillation.regression import RegressionHead
from mvqkd.distillation.targets import (
    DecodedCodes,
    LiveEmbeddings,
    StoredCodes,
    StoredEmbeddings,
)

__all__ = [
    "CodebookHead",
    "DecodedCodes",
    "JointCodebookHead",
    "LayerDistillation",
    "LiveEmbeddings",
    "RegressionHead",
    "SoftCodebookHead",
    "StoredCodes",
    "StoredEmbeddings",
    "TiedCodebookHead",
]
