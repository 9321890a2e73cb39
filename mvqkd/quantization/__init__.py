"""Multi-codebook quantization of teacher embeddings: a frame becomes a few bytes.

Needs torch and numpy; numba only to be fast on a CPU.
`predictability` measures what a student could learn from codes, `reference` exchanges quantizers
with the package `multi_quantization`.
"""

from mvqkd.quantization.frames import Frames, TensorFrames
from mvqkd.quantization.measure import Report, measure
from mvqkd.quantization.quantizer import Quantizer
from mvqkd.quantization.reference import load_quantizer

__all__ = [
    "Frames",
    "Quantizer",
    "Report",
    "TensorFrames",
    "load_quantizer",
    "measure",
]
