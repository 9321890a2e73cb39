"""Kaldi-compatible log-mel features.

80 bins between 20 Hz and 7600 Hz, windows of 25 ms every 10 ms, `snip_edges=False`, no dithering:
the defaults of lhotse's `Fbank`, which sherpa-onnx computes on devices.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from lhotse import Fbank, FbankConfig
from numpy.typing import NDArray

from mvqkd.geometry import NUM_BINS, SAMPLE_RATE


@lru_cache(maxsize=1)
def fbank() -> Fbank:
    """The extractor, one for each process."""
    return Fbank(FbankConfig(sampling_rate=SAMPLE_RATE, num_filters=NUM_BINS))


def extract(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Features (T, 80) of samples (S,) in [-1, 1] at 16 kHz; T = round(S / 160). The same under
    autocast."""
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        return fbank().extract(samples, SAMPLE_RATE)
