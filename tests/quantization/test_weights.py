"""Weights of dimensions: the same as data in other units, without changing the units of what is
decoded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from mvqkd.quantization import Quantizer, measure
from mvqkd.quantization.frames import TensorFrames
from mvqkd.quantization.multi_quantization.exchange import to_multi_quantization
from mvqkd.quantization.weights import dimension_scales

SMALL = {"num_codebooks": 2, "codebook_size": 16, "num_steps": 200}


def frames(seed: int = 0) -> torch.Tensor:
    """66 dimensions, two of them with a deviation of 100."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(8, 66, generator=torch.Generator().manual_seed(9))
    x = torch.randn(6000, 8, generator=generator) @ mixing
    x = x + 0.1 * torch.randn(6000, 66, generator=generator)
    x[:, 5:7] *= 100 / x[:, 5:7].std(dim=0)
    return x + 3


@pytest.fixture(scope="module")
def weighted() -> Quantizer:
    return Quantizer.fit(frames(), weighting="deviation", **SMALL)


def test_scales_make_dimensions_alike_and_keep_the_energy() -> None:
    x = frames().double()
    scales = dimension_scales(TensorFrames(x), "deviation").double()
    variances = (x * scales).var(dim=0, correction=0)
    assert_close(variances, variances.mean().expand(66), rtol=1e-3, atol=0)
    assert_close(variances.sum(), x.var(dim=0, correction=0).sum(), rtol=1e-3, atol=0)
    assert dimension_scales(TensorFrames(x), "none") is None
    # A dimension that is constant gets no weight without end.
    x[:, 9] = 1.0
    assert dimension_scales(TensorFrames(x), "deviation").max() < 40 * scales.max()


def test_it_is_a_quantizer_of_scaled_frames_in_the_units_of_frames(weighted: Quantizer) -> None:
    x = frames()
    scaled = Quantizer.fit(x * weighted.scales, **SMALL)
    codes = weighted.encode(frames(1))
    assert (codes == scaled.encode(frames(1) * weighted.scales)).float().mean() > 0.999
    for ours, theirs in (
        (weighted.decode(codes), scaled.decode(codes)),
        (weighted.direct_sum(codes), scaled.direct_sum(codes)),
    ):
        assert_close(ours, theirs / weighted.scales, rtol=1e-3, atol=1e-2)
    assert_close(weighted.scaled_centers, scaled.centers, rtol=1e-4, atol=1e-5)


def test_codes_have_the_least_weighted_error() -> None:
    generator = torch.Generator().manual_seed(3)
    scales = torch.tensor([0.1, 1.0, 5.0])
    quantizer = Quantizer(torch.zeros(3), torch.randn(2, 4, 3, generator=generator), scales=scales)
    x = torch.randn(50, 3, generator=generator)
    pairs = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    errors = (x[:, None] - quantizer.direct_sum(pairs)) * scales  # (50, 16, 3)
    best = pairs[errors.square().sum(2).argmin(1)]
    assert torch.equal(quantizer.encode(x).long(), best)
    without = Quantizer(quantizer.mean, quantizer.centers)
    assert not torch.equal(without.encode(x).long(), best)
    assert without.id != quantizer.id  # other codes


def test_the_others_are_reconstructed_too(weighted: Quantizer) -> None:
    plain = measure(Quantizer.fit(frames(), **SMALL), frames(1))
    better = measure(weighted, frames(1))
    assert plain.dominant_dimensions == 2 and plain.dominant_share > 0.9
    assert plain.relative_error < 0.05 < plain.median_error
    assert better.median_error < 0.7 * plain.median_error


def test_the_median_is_over_dimensions() -> None:
    quantizer = Quantizer(torch.zeros(3), torch.tensor([[[1.0, 0, 0], [-1.0, 0, 0]]]))
    x = torch.tensor([[1.0, 2.0, 0.5], [-1.0, -2.0, 0.5], [1.0, 2.0, -0.5], [-1.0, -2.0, -0.5]])
    found = measure(quantizer, x)
    assert found.median_error == 1.0  # of 0, 1 and 1
    assert found.relative_error == pytest.approx((4 * 4 + 4 * 0.25) / (4 + 16 + 1))
    assert found.dominant_share == pytest.approx(20 / 21)


def test_it_is_saved_whole_and_older_files_load(weighted: Quantizer, tmp_path: Path) -> None:
    weighted.save(tmp_path / "q.pt")
    again = Quantizer.load(tmp_path / "q.pt")
    x = frames(2)[:50]
    assert again.id == weighted.id
    assert torch.equal(again.encode(x), weighted.encode(x))
    assert torch.equal(again.decode(again.encode(x)), weighted.decode(weighted.encode(x)))
    plain = Quantizer(torch.zeros(3), torch.randn(2, 4, 3))
    plain.save(tmp_path / "plain.pt")
    state = torch.load(tmp_path / "plain.pt", weights_only=True)
    del state["scales"]
    torch.save(state, tmp_path / "old.pt")
    assert Quantizer.load(tmp_path / "old.pt").id == plain.id


def test_another_package_is_not_handed_it(weighted: Quantizer) -> None:
    with pytest.raises(ValueError, match="no weights of dimensions"):
        to_multi_quantization(weighted, frames())


def test_unknown_weightings_and_equal_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="not 'deviations'"):
        Quantizer.fit(frames(), weighting="deviations", **SMALL)
    with pytest.raises(ValueError, match="all frames are equal"):
        Quantizer.fit(torch.ones(300, 4), weighting="deviation", **SMALL)
