"""Kinds of features: which one a cut has, and a model receives.

Only the standard library is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from mvqkd.geometry import FEATURE_BINS, FeatureKind

KIND = "feature_kind"
"""Custom value of a cut without stored features, for other kinds than `fbank`."""
_SPECTROGRAM = "kaldi-log-spectrogram"
"""lhotse's name of it."""


def kind_of_cut(cut: Mapping[str, Any]) -> FeatureKind:
    """The kind of features of a cut, as lhotse's dictionary: those stored, or those that are
    extracted when it is read."""
    stored = cut.get("features")
    if stored is not None:
        return "spectrogram" if stored["type"] == _SPECTROGRAM else "fbank"
    kind: FeatureKind = (cut.get("custom") or {}).get(KIND, "fbank")
    return kind


def kind_of_bins(num_bins: int) -> FeatureKind:
    """The kind that a model of this `input_dim` receives.

    Raises:
        ValueError: no kind has as many bins.
    """
    for kind in get_args(FeatureKind):
        if FEATURE_BINS[kind] == num_bins:
            found: FeatureKind = kind
            return found
    raise ValueError(f"there are no features of {num_bins} bins")
