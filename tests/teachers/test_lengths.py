from __future__ import annotations

import torch

from mvqkd.teachers.lengths import by_length, normalize


def test_normalization_uses_valid_samples_alone() -> None:
    wave = torch.randn(2, 50, dtype=torch.float64) * 3 + 1
    lens = torch.tensor([50, 20])
    result = normalize(wave, lens, eps=1e-5)
    for row, length in zip((0, 1), lens.tolist(), strict=True):
        expected = torch.nn.functional.layer_norm(wave[row, :length], (length,), eps=1e-5)
        torch.testing.assert_close(result[row, :length], expected)
        assert (result[row, length:] == 0).all()


def test_by_length_shows_the_function_no_padding() -> None:
    x = torch.arange(24.0).reshape(4, 6, 1)
    lens = torch.tensor([4, 6, 4, 1])

    def cumulate(rows: torch.Tensor) -> dict[int, torch.Tensor]:
        return {7: rows.flip(1).cumsum(1)}  # would carry padding to the front

    result = by_length(cumulate, x, lens)[7]
    assert result.shape == (4, 6, 1)
    for n, length in enumerate(lens.tolist()):
        expected = cumulate(x[n : n + 1, :length])[7][0]
        assert torch.equal(result[n, :length], expected)
        assert (result[n, length:] == 0).all()
