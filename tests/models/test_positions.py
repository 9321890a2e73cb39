from __future__ import annotations

import math

import pytest
import torch

from mvqkd.models.positions import relative_shift, relative_sinusoids


@pytest.mark.parametrize("queries, keys", [(1, 1), (1, 5), (4, 4), (3, 8)])
def test_shift_selects_the_distance_of_each_pair(queries: int, keys: int) -> None:
    scores = torch.randn(2, 3, queries, queries + keys)
    shifted = relative_shift(scores, keys)
    assert shifted.shape == (2, 3, queries, keys)
    for i in range(queries):
        for j in range(keys):
            distance = i + keys - queries - j
            column = keys - 1 - distance  # distances begin with the largest, keys - 1
            assert torch.equal(shifted[..., i, j], scores[..., i, column])


def test_shift_copies_nothing() -> None:
    scores = torch.randn(1, 2, 4, 8)
    assert (
        relative_shift(scores, 4).untyped_storage().data_ptr()
        == scores.untyped_storage().data_ptr()
    )


def test_sinusoids_of_distances() -> None:
    table = relative_sinusoids(2, 5, 6, torch.empty(0, dtype=torch.float64))
    assert table.shape == (7, 6)
    assert table.dtype == torch.float64
    for row, distance in enumerate(range(4, -2, -1)):
        for k in range(3):
            angle = distance / 10000 ** (2 * k / 6)
            assert table[row, k].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[row, 3 + k].item() == pytest.approx(math.cos(angle), abs=1e-6)
