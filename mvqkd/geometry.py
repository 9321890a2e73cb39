"""Rates, frame grids and padding: the numbers that audio, features, models and targets share.

Functions of lengths take a number, a NumPy array or a tensor, and return the same kind. Only the
standard library is imported.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, TypeVar

SAMPLE_RATE = 16_000
"""Hz, of all audio that features, students and teachers receive."""
FeatureKind = Literal["fbank", "spectrogram"]
"""What frames of features are, see `mvqkd.features.kinds`."""
NUM_BINS = 80
"""Mel bins of a frame of `fbank`."""
FEATURE_BINS: dict[FeatureKind, int] = {"fbank": NUM_BINS, "spectrogram": 161}
"""C, bins of a frame of features of each kind."""
FRAME_SHIFT = 0.01
"""Seconds from one frame of features to the next."""
FEATURE_RATE = 100.0
"""Frames of features per second, Hz."""
SHIFT_SAMPLES = 160
"""Samples from one window of features to the next: 10 ms."""
WINDOW_SAMPLES = 400
"""Samples of a window of features: 25 ms."""

SUBSAMPLING = 4
"""Frames of features from one frame of the encoder to the next."""
RECEPTIVE_FIELD = 7
"""Frames of features that one frame of the encoder is computed from: 4t to 4t + 6."""
ENCODER_RATE = 25.0
"""Frames of the encoder per second, Hz."""

FEATURE_PADDING = -23.025850929940457
"""log(1e-10), with which lhotse, icefall and sherpa-onnx pad log-mel features."""
DIGITAL_SILENCE = -15.942385
"""log(2^-23), the feature of digital silence: the floor of lhotse and sherpa-onnx."""
TARGET_PADDING = -100
"""Padding of token ids and of codebook indexes; losses ignore it."""

BLANK, SOS_EOS, UNK = 0, 1, 2
"""Ids of the first three tokens of every vocabulary."""

Length = TypeVar("Length")  # int, NDArray[np.int64] or Tensor


class FrameGrid(NamedTuple):
    """Where the frames of a sequence lie in time."""

    first: float
    """Seconds from the beginning of the audio to the centre of the first frame."""
    hop: float
    """Seconds from one frame to the next."""

    @property
    def rate(self) -> float:
        """Frames per second, Hz."""
        return 1.0 / self.hop

    def center(self, frame: int) -> float:
        """Seconds from the beginning of the audio to the centre of a frame, counted from 0."""
        return self.first + frame * self.hop


FEATURE_GRID = FrameGrid(first=0.005, hop=FRAME_SHIFT)
"""Kaldi's windows with `snip_edges=False`: frame t is centred at 10 t + 5 ms."""
ENCODER_GRID = FrameGrid(
    first=FEATURE_GRID.center(RECEPTIVE_FIELD // 2), hop=SUBSAMPLING * FRAME_SHIFT
)
"""The student's frames: frame t is centred at 40 t + 35 ms."""


def num_features(samples: Length) -> Length:
    """Frames of features of 16 kHz samples: a frame for every 10 ms, rounded to the nearest."""
    count: Any = samples
    return (count + SHIFT_SAMPLES // 2) // SHIFT_SAMPLES


def encoder_frames(features: Length) -> Length:
    """Encoder frames of frames of features: n need 4n + 3; 0 when there are too few for one."""
    overlap = RECEPTIVE_FIELD - SUBSAMPLING
    count: Any = features
    return (count - overlap) // SUBSAMPLING * (count >= overlap)


def needed_features(frames: Length) -> Length:
    """Frames of features that give this many encoder frames: 4n + 3."""
    count: Any = frames
    return SUBSAMPLING * count + (RECEPTIVE_FIELD - SUBSAMPLING)


def frame_offset(teacher: FrameGrid, student: FrameGrid = ENCODER_GRID) -> int:
    """Teacher frames by which the group that belongs to a student frame is moved.

    Student frame t belongs to the `ratio` teacher frames from ratio * t + offset on whose common
    centre is nearest to its own. HuBERT and Whisper (50 Hz, first frames centred at 12.5 and 0 ms)
    and this student (35 ms) give 1: groups centred 7.5 ms after and 5 ms before the student's.

    Raises:
        ValueError: rates without an integer ratio.
    """
    ratio = frame_ratio(teacher.rate, student.rate)
    if ratio is None:
        raise ValueError(f"no integer ratio of {teacher.rate:g} to {student.rate:g} Hz")
    group = teacher.first + (ratio - 1) / 2 * teacher.hop
    # Half way between two, the earlier one.
    return math.ceil((student.first - group) / teacher.hop - 0.5)


def frame_ratio(teacher_rate: float, student_rate: float = ENCODER_RATE) -> int | None:
    """Teacher frames for a student frame; None if the rates (Hz) have no integer ratio."""
    ratio = round(teacher_rate / student_rate)
    exact = ratio >= 1 and abs(ratio * student_rate - teacher_rate) <= 1e-6 * teacher_rate
    return ratio if exact else None
