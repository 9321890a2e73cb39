"""The package's joining of proposals: compiled and in torch."""

import pytest
import torch

from mvqkd.quantization.multi_quantization import search as search_multi_quantization
from mvqkd.quantization.multi_quantization.search import refine


def problem(num_codebooks, size, frames=130, dim=24):
    generator = torch.Generator().manual_seed(size)
    centers = torch.randn(num_codebooks, size, dim, generator=generator)
    x = num_codebooks**0.5 * torch.randn(frames, dim, generator=generator)
    return x, torch.randint(size, (frames, num_codebooks), generator=generator), centers


# With fewer entries than a tile of products has rows, with a rest beside the tiles, with beams that
# grow, and with the many codebooks of few entries that the package's training begins with.
@pytest.mark.parametrize(
    ("num_codebooks", "size"), [(1, 9), (2, 3), (4, 6), (4, 256), (8, 16), (32, 50), (64, 16)]
)
@pytest.mark.parametrize("threads", [1, 3])
def test_compiled_and_torch_find_the_same_codes(num_codebooks, size, threads, monkeypatch):
    pytest.importorskip("numba")
    x, codes, centers = problem(num_codebooks, size)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    found = refine(x, codes, centers)
    monkeypatch.setattr(
        search_multi_quantization, "_join_compiled", search_multi_quantization._join_torch
    )
    expected = refine(x, codes, centers)
    assert (found == expected).all(dim=1).float().mean() > 0.98  # rounding may decide ties
    assert found.dtype == torch.int64

    def error(chosen):
        rows = sum(c[chosen[:, q]] for q, c in enumerate(centers))
        return float((x - rows).square().sum())

    assert error(found) == pytest.approx(error(expected), rel=1e-3)


def test_of_a_pair_of_codebooks_the_best_of_all_pairs_is_found():
    """With at most 8 entries no pair is skipped."""
    x, codes, centers = problem(2, 8)
    every = centers[0][:, None] + centers[1]
    errors = (x[:, None] - every.flatten(0, 1)).square().sum(dim=2)
    best = errors.argmin(dim=1)
    assert torch.equal(refine(x, codes, centers), torch.stack([best // 8, best % 8], dim=1))


def test_of_no_frames_there_are_no_codes():
    x, codes, centers = problem(4, 16, frames=0)
    assert refine(x, codes, centers).shape == (0, 4)
