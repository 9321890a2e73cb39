from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mvqkd.models.convolution import ConvolutionModule

DIM = 4


@pytest.mark.parametrize("kernel, causal", [(1, False), (5, False), (1, True), (4, True)])
def test_equals_frame_by_frame(kernel: int, causal: bool) -> None:
    torch.manual_seed(0)
    module = ConvolutionModule(dim=DIM, kernel=kernel, causal=causal).double()
    x = torch.randn(2, 7, DIM).double()
    valid = torch.arange(7) < torch.tensor([[7], [4]])
    out, _ = module(x, valid)
    gated = F.glu(module.expand(x), -1)
    for n, length in enumerate((7, 4)):
        for t in range(7):
            first = t - (kernel - 1 if causal else kernel // 2)
            y = module.depthwise.bias.clone()
            for k in range(kernel):
                if 0 <= first + k < length:
                    y = y + module.depthwise.weight[:, 0, k] * gated[n, first + k]
            expected = module.output(F.silu(module.norm(y)))
            torch.testing.assert_close(out[n, t], expected)


def test_cache_continues_the_stream() -> None:
    torch.manual_seed(0)
    module = ConvolutionModule(dim=DIM, kernel=6, causal=True).double()
    x = torch.randn(2, 12, DIM).double()
    whole, last = module(x, None)
    cache = torch.zeros(2, 5, DIM).double()
    parts = []
    for first, end in ((0, 2), (2, 3), (3, 11), (11, 12)):
        part, cache = module(x[:, first:end], None, cache)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    torch.testing.assert_close(cache, last)


@pytest.mark.parametrize("kernel, causal", [(0, True), (4, False)])
def test_bad_kernels(kernel: int, causal: bool) -> None:
    with pytest.raises(ValueError, match="odd unless causal"):
        ConvolutionModule(dim=DIM, kernel=kernel, causal=causal)
