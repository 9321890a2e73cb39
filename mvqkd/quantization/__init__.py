"""Multi-codebook quantization of teacher embeddings: a frame becomes a few bytes.

Needs torch and numpy; numba only to be fast on a CPU.
`predictability` measures the mutual information of codes and features, `multi_quantization`
exchanges quantizers with the package of that name.
"""

from mvqkd.quantization.frames import Frames, TensorFrames
from mvqkd.quantization.measure import Measurement, measure
from mvqkd.quantization.multi_quantization.exchange import load_quantizer
from mvqkd.quantization.quantizer import Quantizer

__all__ = [
    "Frames",
    "Measurement",
    "Quantizer",
    "TensorFrames",
    "load_quantizer",
    "measure",
]
