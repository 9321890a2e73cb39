from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mvqkd.models import ConformerEncoder, Taps
from mvqkd.models.masks import attention_blocks
from mvqkd.models.positions import relative_sinusoids


@pytest.fixture
def model() -> ConformerEncoder:
    torch.manual_seed(0)
    return ConformerEncoder(
        dim=12, num_layers=3, num_heads=2, feedforward_dim=16, conv_kernel=3, dropout=0.0
    )


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(2, 43, 80) * 4 - 7, torch.tensor([43, 43])


def test_layers_equal_a_run_by_hand(model: ConformerEncoder, batch: tuple[Tensor, Tensor]) -> None:
    names = [f"layers.{index}" for index in range(4)]
    taps = Taps([*names, "layers.2.query", "layers.2.key", "layers.2.value"])
    out, _ = model(*batch, taps=taps)
    x = model.subsampling(batch[0])
    torch.testing.assert_close(taps["layers.0"], x)
    blocks = attention_blocks(
        torch.ones(2, 10, dtype=torch.bool),
        chunk_size=None,
        left_context=None,
        block_size=None,
        dtype=x.dtype,
    )
    positions = relative_sinusoids(10, 10, 12, x)
    for index, layer in enumerate(model.layers, start=1):
        if index == 2:
            normed = layer.attention_norm(x + 0.5 * layer.feedforward_in(x))
            query = layer.attention.query(normed).view(2, 10, 2, 6).transpose(1, 2)
            keys_values = layer.attention.key_value(normed).view(2, 10, 4, 6).transpose(1, 2)
            torch.testing.assert_close(taps["layers.2.query"], query)
            torch.testing.assert_close(taps["layers.2.key"], keys_values[:, :2])
            torch.testing.assert_close(taps["layers.2.value"], keys_values[:, 2:])
        x, _ = layer(x, positions, blocks, None)
        torch.testing.assert_close(taps[f"layers.{index}"], x)
    torch.testing.assert_close(out, x)


def test_only_the_wanted_are_kept_and_they_carry_gradient(
    model: ConformerEncoder, batch: tuple[Tensor, Tensor]
) -> None:
    taps = Taps(["layers.1"])
    without, _ = model(*batch)
    tapped, _ = model(*batch, taps=taps)
    assert torch.equal(tapped, without)
    assert list(taps) == ["layers.1"] and len(taps) == 1 and "layers.2" not in taps
    taps["layers.1"].square().mean().backward()
    assert model.layers[0].norm.weight.grad is not None
    assert model.layers[1].norm.weight.grad is None


def test_every_valid_name_is_filled(model: ConformerEncoder, batch: tuple[Tensor, Tensor]) -> None:
    taps = Taps(model.tap_names())
    model(*batch, taps=taps)
    assert set(taps) == set(model.tap_names())
    assert len(taps) == 1 + 3 * 4 + 1


def test_unknown_names_list_the_valid_ones(
    model: ConformerEncoder, batch: tuple[Tensor, Tensor]
) -> None:
    with pytest.raises(ValueError, match=r"unknown taps \['layers.4'\].*layers\.3\.value"):
        model(*batch, taps=Taps(["layers.1", "layers.4"]))
