"""The recurrent encoder."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from mvqkd.models import AsrModel, GruDecoder, GruEncoder, Taps

LENS = torch.tensor([43, 30, 7, 3])


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return GruEncoder(input_dim=30, dim=6, num_layers=2, channels=3).double().eval()


@pytest.fixture(scope="module")
def features():
    torch.manual_seed(1)
    return torch.randn(4, 43, 30, dtype=torch.float64) * 4 - 7


def test_frames_are_those_of_the_conformer(encoder, features):
    out, lens = encoder(features, LENS)
    assert lens.tolist() == [10, 6, 1, 0] and out.shape == (4, 10, 6)


def test_padding_changes_nothing(encoder, features):
    out, lens = encoder(features, LENS)
    longer = torch.nn.functional.pad(features, (0, 0, 0, 9), value=-100.0)
    longer[1, 30:] = 5.0
    again, _ = encoder(longer, LENS)
    assert_close(again[:, :10], out)
    assert not again[:, 10:].any()
    for n in range(3):
        alone, _ = encoder(features[n : n + 1, : LENS[n]], LENS[n : n + 1])
        assert_close(alone[0, : lens[n]], out[n, : lens[n]])
        assert not out[n, lens[n] :].any()


def test_each_frame_receives_all_frames(encoder, features):
    features = features[:1].clone().requires_grad_()
    out, _ = encoder(features, LENS[:1])
    for t in (0, 9):
        gradient = torch.autograd.grad(out[0, t].sum(), features, retain_graph=True)[0]
        assert (gradient.abs().sum(2)[0, :42] > 0).all()


def test_taps(encoder, features):
    taps = Taps(["layers.1", "layers.2", "output"])
    out, _ = encoder(features, LENS, taps=taps)
    assert torch.equal(taps["output"], out) and torch.equal(taps["layers.2"], out)
    first, _ = encoder(features, LENS, num_layers=1)
    assert_close(taps["layers.1"], first)
    with pytest.raises(ValueError, match="unknown taps"):
        encoder(features, LENS, taps=Taps(["layers.3"]))


def test_what_it_refuses(encoder, features):
    with pytest.raises(ValueError, match="no chunks"):
        encoder(features, LENS, chunk_size=8)
    with pytest.raises(ValueError, match="takes 30 feature channels, not 29"):
        encoder(features[..., 1:], LENS)
    with pytest.raises(ValueError, match="too small"):
        GruEncoder(input_dim=20)


@pytest.mark.parametrize(
    ("layers", "cells", "decoder_layers", "paper", "with_filterbank"),
    [(5, 384, 3, 16.8, 15.4), (4, 256, 1, 6.1, 5.2), (3, 128, 1, 1.7, 1.2)],
)
def test_models_of_the_paper_have_its_numbers_of_parameters(
    layers, cells, decoder_layers, paper, with_filterbank
):
    """Teacher, middle and small student of arXiv 1811.04531: 161 bins of a spectrogram of 20 ms,
    31 characters. On 80 mel bins the first layer is smaller."""
    for bins, expected in ((161, paper), (80, with_filterbank)):
        with torch.device("meta"):
            model = AsrModel(
                GruEncoder(input_dim=bins, dim=cells, num_layers=layers),
                attention=GruDecoder(
                    encoder_dim=cells, vocab_size=31, dim=cells, num_layers=decoder_layers
                ),
            )
        count = sum(p.numel() for p in model.parameters())
        assert round(count / 1e6, 1) == expected
