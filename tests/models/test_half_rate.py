"""Layers at 12.5 Hz inside of an encoder of 25 Hz."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mvqkd.models import ConformerEncoder, EncoderState, Taps
from mvqkd.models.half_rate import HalfRate

SIZES = {
    "input_dim": 16,
    "dim": 12,
    "num_layers": 4,
    "num_heads": 3,
    "feedforward_dim": 20,
    "conv_kernel": 4,
    "causal": True,
    "subsampling_channels": 4,
}
RANGES = [(2, 3), (1, 4), (4, 4), (1, 1)]


def encoder(half_rate: tuple[int, ...] = (2, 3), **options: object) -> ConformerEncoder:
    torch.manual_seed(0)
    model = ConformerEncoder(**{**SIZES, "half_rate": half_rate, **options})
    for layer in model.layers:  # zero when new
        torch.nn.init.normal_(layer.attention.content_bias)
        torch.nn.init.normal_(layer.attention.position_bias)
    if model.half_rate is not None:
        torch.nn.init.uniform_(model.half_rate.scale)
    return model.double().eval()


def log_mel(*shape: int) -> Tensor:
    return torch.randn(*shape).double() * 4 - 7


@pytest.mark.parametrize("half_rate", RANGES)
@pytest.mark.parametrize("chunk_size, left_context", [(2, 0), (2, 6), (4, 2), (8, 16), (16, 4)])
@torch.no_grad()
def test_streaming_equals_the_masked_forward(
    half_rate: tuple[int, int], chunk_size: int, left_context: int
) -> None:
    model = encoder(half_rate)
    frames = 39  # odd, as are those of the second stream: 17
    features, lens = log_mel(2, 4 * frames + 3, 16), torch.tensor([4 * frames + 3, 71])
    expected, _ = model(features, lens, chunk_size=chunk_size, left_context=left_context)
    calls = -(-frames // chunk_size)
    missing = 4 * calls * chunk_size + 3 - features.size(1)
    features = torch.nn.functional.pad(features, (0, 0, 0, missing))
    state = model.initial_state(2, left_context)
    outputs = []
    for call in range(calls):
        first = 4 * chunk_size * call
        chunk = features[:, first : first + 4 * chunk_size + 3]
        out, state = model.stream(chunk, state, chunk_size, lens=lens - first)
        state = EncoderState.stack(state.unstack())
        outputs.append(out)
    streamed = torch.cat(outputs, 1)
    assert not streamed[:, frames:].any()
    torch.testing.assert_close(streamed[:, :frames], expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("half_rate", RANGES)
@pytest.mark.parametrize("chunk_size, left_context", [(None, None), (4, 2), (2, 0)])
def test_padding_changes_nothing(
    half_rate: tuple[int, int], chunk_size: int | None, left_context: int | None
) -> None:
    model = encoder(half_rate)
    lens = torch.tensor([83, 79, 40, 7, 5, 0])
    features = log_mel(6, 83, 16)
    for row, length in zip(features, lens.tolist(), strict=True):
        row[length:] = torch.nan
    window = {"chunk_size": chunk_size, "left_context": left_context}
    out, out_lens = model(features, lens, **window)
    assert out_lens.tolist() == [20, 19, 9, 1, 0, 0]
    for n, length in enumerate(lens.tolist()):
        frames = int(out_lens[n])
        assert not out[n, frames:].any()
        if frames:
            alone, _ = model(features[n : n + 1, :length], lens[n : n + 1], **window)
            torch.testing.assert_close(out[n, :frames], alone[0], atol=1e-12, rtol=0)


def test_every_parameter_learns() -> None:
    model = encoder(dropout=0.1).train()
    for window in ({}, {"chunk_size": 4, "left_context": 2}):
        model.zero_grad()
        out, _ = model(log_mel(3, 63, 16), torch.tensor([63, 3, 30]), **window)
        (out * torch.randn_like(out)).sum().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name
            assert parameter.grad.any(), name


def test_a_scale_per_channel_is_all_it_adds() -> None:
    plain = {name: value.shape for name, value in encoder(()).state_dict().items()}
    half = {name: value.shape for name, value in encoder((2, 3)).state_dict().items()}
    assert half == {**plain, "half_rate.scale": (12,)}
    # And the initial weights are the same.
    torch.manual_seed(0)
    first = ConformerEncoder(**SIZES)
    torch.manual_seed(0)
    second = ConformerEncoder(**SIZES, half_rate=(2, 3))
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])


def test_taps_have_the_full_rate() -> None:
    model = encoder((2, 3))
    features, lens = log_mel(2, 4 * 13 + 3, 16), torch.tensor([55, 40])
    taps = Taps(model.tap_names())
    out, _ = model(features, lens, taps=taps)
    assert set(taps) == set(model.tap_names())
    for name in taps:
        expected = (2, 3, 13, 4) if name.count(".") == 2 else (2, 13, 12)
        assert taps[name].shape == expected, name
    assert torch.equal(taps["layers.3.key"][:, :, 0:12:2], taps["layers.3.key"][:, :, 1:13:2])
    assert not torch.equal(taps["layers.4.key"][:, :, 0:12:2], taps["layers.4.key"][:, :, 1:13:2])
    without, _ = model(features, lens)
    assert torch.equal(out, without)
    # Only the first layers are computed: the last of them is restored, too.
    some, fewer = Taps(["layers.2"]), {"num_layers": 2}
    cut, _ = model(features, lens, taps=some, **fewer)
    assert torch.equal(some["layers.2"], taps["layers.2"])
    assert torch.equal(cut[0], taps["layers.2"][0])


def test_averages_and_the_way_back() -> None:
    module = HalfRate(3).double()
    x = torch.randn(2, 5, 3).double()
    valid = torch.tensor([[True] * 5, [True, True, True, False, False]])
    averages = module.average(x, valid)
    assert averages.shape == (2, 3, 3)
    torch.testing.assert_close(averages[:, 0], (x[:, 0] + x[:, 1]) / 2)
    torch.testing.assert_close(averages[0, 1], (x[0, 2] + x[0, 3]) / 2)
    assert torch.equal(averages[0, 2], x[0, 4])  # its second is missing
    assert torch.equal(averages[1, 1], x[1, 2])  # its second is padding
    torch.testing.assert_close(module.restore(averages, averages, x), x)
    changed = module.restore(averages + 1, averages, x)
    torch.testing.assert_close(changed, x + 1)
    torch.testing.assert_close(
        module.average(x[:, :4], None), module.average(x[:, :4], valid[:1, :4])
    )


def test_errors() -> None:
    model = encoder()
    features, lens = log_mel(1, 43, 16), torch.tensor([43])
    with pytest.raises(ValueError, match="chunk_size=5 must be even"):
        model(features, lens, chunk_size=5)
    with pytest.raises(ValueError, match="left_context=3 must be even"):
        model(features, lens, chunk_size=4, left_context=3)
    with pytest.raises(ValueError, match="left_context=3 must be even"):
        model.initial_state(1, 3)
    with pytest.raises(ValueError, match="chunk_size=5 must be even"):
        model.stream(features[:, :23], model.initial_state(1, 4), 5)
    for half_rate in ((0, 2), (3, 2), (2, 5)):
        with pytest.raises(ValueError, match="half_rate="):
            encoder(half_rate)
