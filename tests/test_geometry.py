"""Lengths and grids against lhotse's own and against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lhotse.utils import compute_num_frames

from mvqkd.features.fbank import extract
from mvqkd.geometry import (
    ENCODER_GRID,
    FEATURE_GRID,
    FRAME_SHIFT,
    SAMPLE_RATE,
    SHIFT_SAMPLES,
    WINDOW_SAMPLES,
    encoder_frames,
    frame_ratio,
    needed_features,
    num_features,
)


def test_frames_of_features_are_those_of_lhotse_and_of_the_extractor() -> None:
    for samples in [*range(0, 500), 16_000, 99_999, 1_234_567]:
        wanted = compute_num_frames(samples / SAMPLE_RATE, FRAME_SHIFT, SAMPLE_RATE)
        assert num_features(samples) == wanted
    for samples in (400, 1_000, 1_679, 1_680):
        assert len(extract(np.zeros(samples, np.float32))) == num_features(samples)


def test_encoder_frames_count_the_windows_that_fit() -> None:
    lens = list(range(60))
    fitting = [sum(first + 7 <= n for first in range(0, n, 4)) for n in lens]
    assert [encoder_frames(n) for n in lens] == fitting
    assert encoder_frames(np.array(lens)).tolist() == fitting
    found = encoder_frames(torch.tensor(lens))
    assert found.dtype == torch.int64 and found.tolist() == fitting
    for frames in (1, 2, 25):
        assert encoder_frames(needed_features(frames)) == frames
        assert encoder_frames(needed_features(frames) - 1) == frames - 1


def test_grids_are_the_centres_of_the_windows() -> None:
    for frame in (0, 1, 7):
        begin = frame * SHIFT_SAMPLES - (WINDOW_SAMPLES - SHIFT_SAMPLES) / 2
        center = (begin + WINDOW_SAMPLES / 2) / SAMPLE_RATE
        assert FEATURE_GRID.center(frame) == pytest.approx(center)
        # Frames 4t to 4t + 6 of the features.
        spanned = [FEATURE_GRID.center(4 * frame + i) for i in range(7)]
        assert ENCODER_GRID.center(frame) == pytest.approx(np.mean(spanned))
    assert ENCODER_GRID.center(0) == pytest.approx(0.035)
    assert (FEATURE_GRID.rate, ENCODER_GRID.rate) == pytest.approx((100.0, 25.0))


def test_ratios_are_integers() -> None:
    assert frame_ratio(50.0) == 2 and frame_ratio(25.0) == 1 and frame_ratio(100.0, 50.0) == 2
    assert frame_ratio(12.5) is None and frame_ratio(40.0) is None
