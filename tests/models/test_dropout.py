from __future__ import annotations

import pytest
import torch

from mvqkd.models.dropout import Dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_rate_and_scale(p: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(300, 1001, requires_grad=True)  # not a multiple of four elements
    y = Dropout(p)(x)
    kept = y != 0
    rate = 1 - kept.double().mean().item()
    assert rate == pytest.approx(p, abs=5 * (p * (1 - p) / x.numel()) ** 0.5)
    torch.testing.assert_close(y[kept], torch.full_like(y[kept], 1 / (1 - p)), rtol=1e-3, atol=0)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())


def test_neighbours_are_independent() -> None:
    torch.manual_seed(0)
    dropped = (Dropout(0.5)(torch.ones(400_000)) == 0).double() - 0.5
    # Four neighbours share one draw, and an eighth of the elements further is a generator's next.
    for lag in (*range(1, 9), 50_000, 100_000, 350_000):
        products = dropped[lag:] * dropped[:-lag]
        assert abs(products.mean().item()) < 5 * 0.25 / len(products) ** 0.5


def test_the_seed_decides() -> None:
    x = torch.ones(64)
    dropout = Dropout(0.5)
    torch.manual_seed(3)
    first, second = dropout(x), dropout(x)
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(dropout(x), first)


def test_off() -> None:
    x = torch.randn(8)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x
    with pytest.raises(ValueError, match=r"dropout=1\.0"):
        Dropout(1.0)


def test_dtype_and_shape() -> None:
    for shape in ((), (0, 3), (2, 3, 5)):
        y = Dropout(0.5)(torch.ones(shape, dtype=torch.bfloat16))
        assert y.shape == shape and y.dtype == torch.bfloat16


def test_in_place() -> None:
    x = torch.randn(50, requires_grad=True)
    torch.manual_seed(1)
    expected = Dropout(0.3)(2 * x)
    torch.manual_seed(1)
    overwritten = 2 * x
    y = Dropout(0.3, inplace=True)(overwritten)
    assert y.data_ptr() == overwritten.data_ptr()
    assert torch.equal(y, expected)
    direction = torch.randn(50)
    (want,) = torch.autograd.grad(expected, x, direction)
    (got,) = torch.autograd.grad(y, x, direction.clone())
    assert torch.equal(got, want)
