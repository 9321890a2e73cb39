from __future__ import annotations

import pytest
import torch
from torch import nn

from mvqkd.models.depthwise import depthwise


@pytest.mark.parametrize(
    "batch, frames, kernel, channels",
    [(1, 5, 1, 32), (3, 9, 4, 48), (5, 300, 15, 32), (5, 300, 15, 6)],
)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_output_and_gradients_are_those_of_conv1d(
    batch: int, frames: int, kernel: int, channels: int, dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv1d(channels, channels, kernel, groups=channels).to(dtype)
    exact = nn.Conv1d(channels, channels, kernel, groups=channels).double()
    exact.load_state_dict(conv.state_dict())
    # Channels of a wider tensor: strides that a convolution may not count on.
    x = torch.randn(batch, frames + kernel - 1, channels + 2).to(dtype).requires_grad_()
    out = depthwise(x[..., :channels], conv)
    reference = x.detach().double().requires_grad_()
    expected = exact(reference[..., :channels].transpose(1, 2)).transpose(1, 2)
    direction = torch.randn(expected.shape).to(dtype)
    gradients = torch.autograd.grad(out, [x, *conv.parameters()], direction)
    expected_gradients = torch.autograd.grad(
        expected, [reference, *exact.parameters()], direction.double()
    )
    assert out.dtype == dtype
    for got, want in zip([out, *gradients], [expected, *expected_gradients], strict=True):
        assert (got.double() - want).abs().max() <= tolerance * want.abs().max()


def test_autocast_keeps_the_type_of_the_input() -> None:
    conv = nn.Conv1d(32, 32, 3, groups=32)
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(2, 7, 32).to(dtype).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            out = depthwise(x, conv)
        assert out.dtype == dtype
        out.float().sum().backward()
        assert x.grad is not None and x.grad.dtype == dtype
        assert conv.weight.grad is not None and conv.weight.grad.dtype == torch.float32
