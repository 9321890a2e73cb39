from __future__ import annotations

import pytest
import torch

from mvqkd.data.targets.frame_targets import pack
from mvqkd.data.targets.teacher_frames import Pairing
from mvqkd.errors import UserError
from mvqkd.geometry import ENCODER_GRID, FrameGrid, frame_offset

HUBERT, WHISPER = FrameGrid(0.0125, 0.02), FrameGrid(0.0, 0.02)
GRIDS = [
    HUBERT,
    WHISPER,
    ENCODER_GRID,
    FrameGrid(0.005, 0.01),
    FrameGrid(0.09, 0.02),
    FrameGrid(0.2, 0.04),
]


@pytest.mark.parametrize("grid", GRIDS)
def test_the_group_of_teacher_frames_is_the_nearest(grid: FrameGrid) -> None:
    ratio = round(ENCODER_GRID.hop / grid.hop)
    offset = frame_offset(grid)

    def distance(t: int, first: int) -> float:
        centers = [grid.center(first + r) for r in range(ratio)]
        return abs(sum(centers) / ratio - ENCODER_GRID.center(t))

    for t in (0, 7):
        found = distance(t, ratio * t + offset)
        assert found <= grid.hop / 2 + 1e-9
        assert found <= min(distance(t, ratio * t + other) for other in range(-20, 20)) + 1e-9


def test_hubert_and_whisper() -> None:
    for grid, apart in ((HUBERT, 0.0075), (WHISPER, -0.005)):
        assert frame_offset(grid) == 1
        group = (grid.center(1) + grid.center(2)) / 2
        assert group - ENCODER_GRID.center(0) == pytest.approx(apart)
    with pytest.raises(ValueError, match="no integer ratio of 40 to 25"):
        frame_offset(FrameGrid(0.0, 0.025))


def test_frames_of_an_unknown_place_are_paired_from_the_first_on() -> None:
    assert Pairing.of(50.0, None, delay=3) == Pairing(2, 0, 3)
    assert Pairing.of(50.0, 0.0) == Pairing(2, 1, 0)
    assert Pairing.of(50.0, 0.09) == Pairing(2, -3, 0)
    with pytest.raises(UserError, match="40 frames a second"):
        Pairing.of(40.0, None)


@pytest.mark.parametrize("offset", [-5, -4, -1, 0, 1, 2, 3])
@pytest.mark.parametrize("delay", [0, 2])
@pytest.mark.parametrize("ratio", [1, 2, 3])
def test_targets_follow_their_definition(ratio: int, delay: int, offset: int) -> None:
    lens = [5, 9, 9, 9]
    lengths = [5 * ratio, 9 * ratio, 9 * ratio + 2, 9 * ratio - 1]
    rows = [torch.arange(1, n + 1)[:, None] + 100 * i for i, n in enumerate(lengths)]
    pairing = Pairing(ratio, offset, delay)
    targets = pack(list("abcd"), rows, lens, pairing=pairing, source="x")
    values, present = targets.padded(4)
    for n, x in enumerate(rows):
        for t in range(9):
            first = ratio * (t - delay) + offset
            # Delayed targets begin with those of student frame 0.
            inside = delay <= t < lens[n] and first >= 0 and first + ratio <= len(x)
            assert bool(present[n, t]) == inside
            if inside:
                assert torch.equal(values[n, t], x[first : first + ratio, 0])
