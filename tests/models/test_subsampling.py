from __future__ import annotations

import torch

from mvqkd.geometry import encoder_frames
from mvqkd.models.subsampling import ConvSubsampling


def test_lengths() -> None:
    lens = torch.tensor([0, 1, 6, 7, 10, 11, 4 * 25 + 3, 4 * 25 + 6])
    assert encoder_frames(lens).tolist() == [0, 0, 0, 1, 1, 2, 25, 25]
    module = ConvSubsampling(input_dim=80, dim=6, channels=4)
    for frames in range(7, 24):
        out = module(torch.zeros(1, frames, 80))
        assert out.shape == (1, int(encoder_frames(frames)), 6)


def test_any_number_of_bins() -> None:
    for bins in (1, 7, 40, 81, 82, 83):
        module = ConvSubsampling(input_dim=bins, dim=6, channels=4)
        assert module(torch.zeros(1, 7, bins)).shape == (1, 1, 6)


def test_frame_t_sees_input_4t_to_4t_plus_6() -> None:
    torch.manual_seed(0)
    module = ConvSubsampling(input_dim=16, dim=6, channels=4).double()
    features = torch.randn(1, 25, 16).double().requires_grad_()
    out = module(features)
    for t in range(out.size(1)):
        (gradient,) = torch.autograd.grad(
            out[0, t] @ torch.randn(6).double(), features, retain_graph=True
        )
        influence = (gradient[0] != 0).any(-1).nonzero().flatten().tolist()
        assert influence == list(range(4 * t, 4 * t + 7))
