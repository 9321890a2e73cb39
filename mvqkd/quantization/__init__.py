"""Multi-codebook quantization of teacher embeddings: a frame becomes a few bytes.

Needs torch and numpy; h5py only to read frames from files, numba only to be fast on a CPU.
"""

from mvqkd.quantization.frames import EmbeddingFile, Frames, TensorFrames
from mvqkd.quantization.quantizer import Quantizer

__all__ = ["EmbeddingFile", "Frames", "Quantizer", "TensorFrames"]
