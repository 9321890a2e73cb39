"""Features of each kind, from audio."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from lhotse import Fbank, LogSpectrogram, LogSpectrogramConfig
from numpy.typing import NDArray

from mvqkd.features import fbank
from mvqkd.geometry import DIGITAL_SILENCE, FRAME_SHIFT, SAMPLE_RATE, FeatureKind

_WINDOW = 0.02
"""Seconds, of a spectrogram."""


@lru_cache(maxsize=2)
def extractor(kind: FeatureKind) -> Fbank | LogSpectrogram:
    """One for each process.

    `fbank`: see `mvqkd.features.fbank`. `spectrogram`: power of the 161 bins of Hann windows of 20
    ms every 10 ms, in natural logarithms (Mun'im et al. 2019, arXiv 1811.04531, section 4.2),
    without Kaldi's pre-emphasis and removal of the mean.
    """
    if kind == "fbank":
        return fbank.fbank()
    return LogSpectrogram(
        LogSpectrogramConfig(
            sampling_rate=SAMPLE_RATE,
            frame_length=_WINDOW,
            frame_shift=FRAME_SHIFT,
            round_to_power_of_two=False,
            remove_dc_offset=False,
            preemph_coeff=0.0,
            window_type="hanning",
        )
    )


def extract(samples: NDArray[np.float32], kind: FeatureKind) -> NDArray[np.float32]:
    """Features (T, C) of samples (S,) in [-1, 1] at 16 kHz; T = round(S / 160), no value is below
    `DIGITAL_SILENCE`. The same under autocast."""
    if kind == "fbank":
        return fbank.extract(samples)
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        features = extractor(kind).extract(samples, SAMPLE_RATE)
    return np.maximum(features, np.float32(DIGITAL_SILENCE))
