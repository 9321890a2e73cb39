"""Teacher frames to student frames: rates that differ by an integer, lengths that differ by a few
frames, target delays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from mvqkd.errors import UserError
from mvqkd.geometry import ENCODER_GRID, ENCODER_RATE, FrameGrid, frame_offset, frame_ratio


class Pairing(NamedTuple):
    """Which teacher frames belong to a student frame: student frame t has the targets
    ratio * (t - delay) + offset ... + ratio - 1."""

    ratio: int
    """Teacher frames for a student frame."""
    offset: int = 0
    """Teacher frames, see `mvqkd.geometry.frame_offset`."""
    delay: int = 0
    """Target delay, student frames."""

    @classmethod
    def of(
        cls,
        teacher_rate: float,
        first_frame: float | None,
        *,
        student: FrameGrid = ENCODER_GRID,
        delay: int = 0,
    ) -> Pairing:
        """The pairing of a teacher with a student.

        Args:
            teacher_rate: Hz.
            first_frame: seconds to the centre of the teacher's first frame; None: not known. Then
                both begin together, as icefall pairs the indexes that it has published.
            student: grid of the student's frames.
            delay: target delay, student frames.

        Raises:
            UserError: the teacher's rate is no multiple of the student's.
        """
        ratio = require_ratio(teacher_rate, student.rate)
        offset = 0
        if first_frame is not None:
            offset = frame_offset(FrameGrid(first_frame, 1 / teacher_rate), student)
        return cls(ratio, offset, delay)


class Span(NamedTuple):
    """Student frames `begin` to `begin + length` - 1 have targets: groups of teacher frames from
    `first` on."""

    begin: int
    length: int
    first: int


def match_frames(
    utterance: str,
    teacher_len: int,
    student_len: int,
    *,
    pairing: Pairing,
    tolerance: int,
    source: object,
) -> Span:
    """Which teacher frames are the targets of which student frames.

    Args:
        utterance: id, for the error.
        teacher_len: teacher frames of the utterance.
        student_len: student frames of the utterance.
        pairing: of their frames; student frames whose teacher frames are not all there have no
            targets.
        tolerance: student frames by which the teacher may be longer or shorter: what it has too
            much is dropped, what it lacks has no targets.
        source: file of the teacher's frames, for the error.

    Raises:
        UserError: lengths differ by more than the tolerance.
    """
    ratio, offset, delay = pairing
    difference = teacher_len - ratio * student_len
    if abs(difference) > ratio * tolerance:
        raise UserError(
            f"utterance {utterance}: {teacher_len} teacher frames in {source} but {student_len} "
            f"student frames of {ratio} teacher frames each: they differ by {abs(difference)} "
            f"teacher frames, {ratio * tolerance} are allowed",
            remedy="make the targets of the audio that is trained on: same corpus, same speed "
            "copies",
        )
    skipped = max(0, -(offset // ratio))  # groups that begin before the teacher's first frame
    begin, first = delay + skipped, ratio * skipped + offset
    return Span(begin, max(0, min((teacher_len - first) // ratio, student_len - begin)), first)


def check_lengths(
    teacher_lens: Mapping[str, int],
    student_lens: Mapping[str, int],
    *,
    ratio: int,
    tolerance: int = 3,
    source: object,
) -> Counter[int]:
    """Check that targets are of the audio that is trained on, before training starts.

    Args:
        teacher_lens: utterance id -> teacher frames; all of `student_lens` must be there.
        student_lens: utterance id -> student frames.
        ratio, tolerance, source: see `match_frames`.

    Returns:
        Teacher frames less student frames x ratio -> number of utterances.

    Raises:
        UserError: lengths of an utterance differ by more than the tolerance.
    """
    differences: Counter[int] = Counter()
    for utterance, student_len in student_lens.items():
        teacher_len = teacher_lens[utterance]
        match_frames(
            utterance,
            teacher_len,
            student_len,
            pairing=Pairing(ratio),
            tolerance=tolerance,
            source=source,
        )
        differences[teacher_len - ratio * student_len] += 1
    return differences


def require_ratio(teacher_rate: float, student_rate: float = ENCODER_RATE) -> int:
    """Teacher frames for a student frame; rates in Hz.

    Raises:
        UserError: the teacher's rate is no multiple of the student's.
    """
    ratio = frame_ratio(teacher_rate, student_rate)
    if ratio is None:
        raise UserError(
            f"the teacher has {teacher_rate:g} frames a second, the student {student_rate:g}: no "
            "integer ratio",
            remedy="take a teacher whose frame rate is a multiple of the student's",
        )
    return ratio
