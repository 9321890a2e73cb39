from __future__ import annotations

import pytest
import torch
from lhotse import Fbank, FbankConfig

from mvqkd.decoding import OnlineFbank


def online(samples: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    fbank = OnlineFbank()
    frames = [fbank.accept(piece) for piece in samples.split(sizes)]
    return torch.cat([*frames, fbank.finish()])


@pytest.mark.parametrize(
    "num_samples", [140, 160, 401, 1000, 1119, 1120, 1121, 1199, 1280, 16000, 16085]
)
@pytest.mark.parametrize("step", [13, 97, 160, 1600, 100000])
def test_pieces_give_the_features_of_the_whole(num_samples: int, step: int) -> None:
    samples = torch.randn(num_samples, generator=torch.Generator().manual_seed(num_samples)) * 0.1
    whole = Fbank(FbankConfig()).extract(samples, 16000)
    sizes = [min(step, num_samples - start) for start in range(0, num_samples, step)]
    pieces = online(samples, sizes)
    assert pieces.shape == whole.shape
    # FFTs of another batch size round differently in the last bit.
    torch.testing.assert_close(pieces, torch.as_tensor(whole), atol=2e-4, rtol=1e-5)


def test_features_are_the_same_under_autocast() -> None:
    samples = torch.randn(4000, generator=torch.Generator().manual_seed(0)) * 0.1
    features = online(samples, [1000] * 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(online(samples, [1000] * 4), features)


def test_frames_come_as_soon_as_their_windows_have_arrived() -> None:
    fbank = OnlineFbank()
    # Frame t spans the samples 160 t - 120 .. 160 t + 279.
    assert len(fbank.accept(torch.randn(279))) == 0
    assert len(fbank.accept(torch.randn(1))) == 1
    assert len(fbank.accept(torch.randn(320))) == 2
    assert len(fbank.finish()) == 4 - 3  # 600 samples are round(600 / 160) frames


def test_nothing_gives_nothing() -> None:
    fbank = OnlineFbank()
    assert fbank.accept(torch.zeros(0)).shape == (0, 80)
    assert fbank.accept(torch.randn(50)).shape == (0, 80)
    assert fbank.finish().shape == (0, 80)
    fbank = OnlineFbank()
    assert fbank.accept(torch.randn(139)).shape == (0, 80)
    assert fbank.finish().shape == (0, 80)


@pytest.mark.parametrize(
    "samples", [torch.zeros(1600, dtype=torch.int16), torch.zeros(1, 1600), torch.zeros(1600, 2)]
)
def test_integers_and_channels_are_refused(samples: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"floating-point numbers in \[-1, 1\]"):
        OnlineFbank().accept(samples)
