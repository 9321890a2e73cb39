"""Audio and features of a cut."""

from __future__ import annotations

import logging
import warnings
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import lilcom
import numpy as np
import torch
from lhotse import set_audio_duration_mismatch_tolerance
from lhotse.cut import Cut
from lhotse.serialization import deserialize_item
from numpy.typing import NDArray

from mvqkd.errors import UserError
from mvqkd.features.extraction import extract
from mvqkd.features.kinds import kind_of_cut

CHECKSUM = "features_crc32"
"""Custom value of a cut: CRC-32 of its features' bytes in a `lilcom_chunky` archive."""
LEAST_TOLERANCE = 0.01
"""Seconds by which audio may be shorter than its manifest says: the least that lhotse offers
without a warning."""


@lru_cache(maxsize=1)
def refuse_short_audio() -> None:
    """Make lhotse, in this process, raise for audio that is more than 10 ms shorter than its
    manifest says.

    Otherwise it fills up to half a second with mirrored speech. Rounding in resampling and speed
    perturbation is a few samples.
    """
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it logs the new tolerance, and warns of any below its own
    try:
        with warnings.catch_warnings():  # action= came with Python 3.11
            warnings.simplefilter("ignore")
            set_audio_duration_mismatch_tolerance(LEAST_TOLERANCE)
    finally:
        logging.disable(disabled)


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
            remedy="restore the corpus, or validate it again",
            step="manifests",
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
    kind = kind_of_cut(cut_json)
    cut = deserialize_item(dict(cut_json))  # it takes the dictionary apart
    if not cut.has_features:
        return extract(read_audio(cut), kind)
    stored = Path(cut.features.storage_path)
    if not stored.exists():
        beside = manifest.parent / stored.parent.name / stored.name
        if not beside.exists():
            raise UserError(
                f"{stored}, the features of utterance {cut.id}, is missing",
                step="features",
            )
        cut.features.storage_path = str(beside)
        stored = beside
    remedy = "put a copy of it back; or delete it, if it was computed here"
    try:
        features = _read_stored(cut)
    except Exception as error:  # lilcom and lhotse raise anything on damaged bytes
        raise UserError(
            f"{stored}, the features of utterance {cut.id}, is damaged: {_first_line(error)}",
            remedy=remedy,
            step="features",
        ) from error
    if features.shape != (cut.num_frames, cut.num_features) or not np.isfinite(features).all():
        raise UserError(
            f"{stored} is damaged: the features of utterance {cut.id} have shape {features.shape}, "
            f"not {(cut.num_frames, cut.num_features)}, or are not finite",
            remedy=remedy,
            step="features",
        )
    return features


def _read_stored(cut: Cut) -> NDArray[np.float32]:
    """Stored features of a whole cut; those with a checksum are read by hand, at no cost.

    Raises:
        ValueError: the bytes are not those that were written.
    """
    stored, checksum = cut.features, (cut.custom or {}).get(CHECKSUM)
    whole = (cut.start, cut.duration) == (stored.start, stored.duration)
    if checksum is None or not whole:  # of an earlier version, or made by others
        return cut.load_features()
    begin, *sizes = map(int, stored.storage_key.split(","))
    with open(stored.storage_path, "rb") as file:
        file.seek(begin)
        data = file.read(sum(sizes))
    if zlib.crc32(data) != checksum:
        raise ValueError("it is not what was written")
    ends = np.cumsum(sizes).tolist()
    chunks = [
        lilcom.decompress(data[end - size : end]) for end, size in zip(ends, sizes, strict=True)
    ]
    return np.concatenate(chunks)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
