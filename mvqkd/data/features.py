"""Kaldi-compatible log-mel features: extracting, storing, reading.

80 bins between 20 Hz and 7600 Hz, windows of 25 ms every 10 ms, `snip_edges=False`, no dithering:
the defaults of lhotse's `Fbank`, which sherpa-onnx computes on devices.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lhotse import Fbank, FbankConfig
from lhotse.cut import Cut
from lhotse.serialization import deserialize_item
from numpy.typing import NDArray

from mvqkd.data.audio import refuse_short_audio
from mvqkd.errors import UserError
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


def read_audio(cut: Cut) -> NDArray[np.float32]:
    """Samples (S,) of a cut with one channel at 16 kHz, after its transforms (resampling, speed).
    The same under autocast: those transforms are convolutions.

    Raises:
        UserError: the audio is missing, damaged, or shorter than the manifest says.
    """
    refuse_short_audio()
    try:
        with torch.autocast("cpu", enabled=False):
            samples = cut.load_audio()
    except Exception as error:  # decoders raise anything
        raise UserError(
            f"the audio of utterance {cut.id} cannot be read: {_first_line(error)}",
            remedy="restore the corpus, or validate it again: ./run.sh --stage 1",
        ) from error
    return np.ascontiguousarray(samples[0], dtype=np.float32)


def load_features(cut_json: dict[str, Any], manifest: Path) -> NDArray[np.float32]:
    """Features (T, C) of a cut: those stored, or extracted now when it has none.

    Args:
        cut_json: the cut as lhotse's dictionary.
        manifest: the manifest that it is from. Stored features that are not where the manifest says
            (the folder was moved) are looked for beside it.

    Raises:
        UserError: features or audio are missing or damaged.
    """
    cut = deserialize_item(dict(cut_json))  # it takes the dictionary apart
    if not cut.has_features:
        return extract(read_audio(cut))
    stored = Path(cut.features.storage_path)
    if not stored.exists():
        beside = manifest.parent / stored.parent.name / stored.name
        if not beside.exists():
            raise UserError(
                f"{stored}, the features of utterance {cut.id}, is missing",
                remedy="./run.sh --stage 2 makes it again",
            )
        cut.features.storage_path = str(beside)
    try:
        features = cut.load_features()
    except Exception as error:  # lilcom and lhotse raise anything on damaged bytes
        raise UserError(
            f"{stored}, the features of utterance {cut.id}, is damaged: {_first_line(error)}",
            remedy="delete it and run ./run.sh --stage 2",
        ) from error
    if features.shape != (cut.num_frames, cut.num_features) or not np.isfinite(features).all():
        raise UserError(
            f"{stored} is damaged: the features of utterance {cut.id} have shape {features.shape}, "
            f"not {(cut.num_frames, cut.num_features)}, or are not finite",
            remedy="delete it and run ./run.sh --stage 2",
        )
    return features


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
