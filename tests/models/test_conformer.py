from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mvqkd.models import ConformerEncoder, Taps

SMALL = {
    "input_dim": 16,
    "dim": 12,
    "num_layers": 2,
    "num_heads": 3,
    "feedforward_dim": 20,
    "conv_kernel": 5,
    "subsampling_channels": 4,
}


def encoder(**options: object) -> ConformerEncoder:
    torch.manual_seed(0)
    return ConformerEncoder(**{**SMALL, **options}).double().eval()


def log_mel(*shape: int) -> Tensor:
    return torch.randn(*shape).double() * 4 - 7


def test_lengths() -> None:
    model = encoder()
    lens = torch.tensor([50, 51, 7, 6, 0])
    out, out_lens = model(log_mel(5, 51, 16), lens)
    assert out.shape == (5, 12, 12)
    assert out_lens.dtype == torch.int64
    assert out_lens.tolist() == model.output_lens(lens).tolist() == [11, 12, 1, 0, 0]
    assert model.subsampling_factor == 4 and model.dim == 12


@pytest.mark.parametrize("chunk_size, left_context", [(None, None), (4, 3), (2, 0), (5, None)])
def test_padding_changes_nothing(chunk_size: int | None, left_context: int | None) -> None:
    model = encoder(causal=chunk_size is not None)
    lens = torch.tensor([83, 40, 7, 5, 0])
    features = log_mel(5, 83, 16)
    for row, length in zip(features, lens.tolist(), strict=True):
        row[length:] = torch.nan  # any trace of it would spread
    window = {"chunk_size": chunk_size, "left_context": left_context}
    out, out_lens = model(features, lens, **window)
    for n, length in enumerate(lens.tolist()):
        frames = int(out_lens[n])
        assert not out[n, frames:].any()  # neither nan nor anything else
        if frames:
            alone, _ = model(features[n : n + 1, :length], lens[n : n + 1], **window)
            torch.testing.assert_close(out[n, :frames], alone[0], atol=1e-12, rtol=0)


@pytest.mark.parametrize("frames", [0, 3, 6])
def test_batch_without_any_output_frame(frames: int) -> None:
    model = encoder(causal=True).train()
    for window in ({}, {"chunk_size": 2, "left_context": 1}):
        out, out_lens = model(log_mel(2, frames, 16), torch.tensor([frames, 0]), **window)
        assert out.shape == (2, 1, 12) and not out.any() and out_lens.tolist() == [0, 0]
        out.sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


def test_every_parameter_learns_and_empty_utterances_do_no_harm() -> None:
    model = encoder(causal=True).train()
    lens = torch.tensor([60, 3, 31])
    for window in ({}, {"chunk_size": 3, "left_context": 0}):
        model.zero_grad()
        out, _ = model(log_mel(3, 60, 16), lens, **window)
        (out * torch.randn_like(out)).sum().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name
            assert parameter.grad.any(), name


def expected_influence(
    num_frames: int, layers: int, chunk: int | None, left: int | None, kernel: int, causal: bool
) -> Tensor:
    """(T', T) bool: which input frames reach which output frame, layer by layer."""
    attention = torch.zeros(num_frames, num_frames, dtype=torch.bool)
    convolution = torch.zeros(num_frames, num_frames, dtype=torch.bool)
    subsampling = torch.zeros(num_frames, 4 * num_frames + 3, dtype=torch.bool)
    for t in range(num_frames):
        start = 0 if chunk is None else t // chunk * chunk
        end = num_frames if chunk is None else start + chunk
        attention[t, max(0, start - (start if left is None else left)) : end] = True
        past, future = (kernel - 1, 0) if causal else (kernel // 2, kernel // 2)
        convolution[t, max(0, t - past) : t + future + 1] = True
        subsampling[t, 4 * t : 4 * t + 7] = True
    reach = torch.eye(num_frames)
    for _ in range(layers):
        reach = convolution.float() @ attention.float() @ reach
    return (reach @ subsampling.float()) > 0


@pytest.mark.parametrize(
    "chunk, left, causal",
    [
        (3, 0, True),
        (3, 4, True),
        (2, 2, True),
        (4, None, True),
        (None, None, True),
        (None, None, False),
    ],
)
def test_which_input_frames_influence_an_output_frame(
    chunk: int | None, left: int | None, causal: bool
) -> None:
    num_frames, kernel = 14, 3
    model = encoder(causal=causal, conv_kernel=kernel)
    features = log_mel(1, 4 * num_frames + 3, 16).requires_grad_()
    lens = torch.tensor([features.size(1)])
    out, _ = model(features, lens, chunk_size=chunk, left_context=left)
    expected = expected_influence(num_frames, 2, chunk, left, kernel, causal)
    direction = torch.randn(12).double()
    for t in range(num_frames):
        (gradient,) = torch.autograd.grad(out[0, t] @ direction, features, retain_graph=True)
        assert torch.equal((gradient[0] != 0).any(-1), expected[t]), t


def test_a_chunk_as_long_as_the_utterance_is_full_context() -> None:
    model = encoder(causal=True)
    features, lens = log_mel(2, 60, 16), torch.tensor([60, 45])
    whole, _ = model(features, lens)
    for chunk_size in (14, 100):
        chunked, _ = model(features, lens, chunk_size=chunk_size, left_context=0)
        torch.testing.assert_close(chunked, whole, atol=1e-12, rtol=0)


def test_long_utterances_cross_blocks() -> None:
    model = encoder(num_layers=1)
    features, lens = log_mel(1, 4 * 150 + 3, 16), torch.tensor([603])
    blocked, _ = model(features, lens)
    model._block_size = lambda device: None
    whole, _ = model(features, lens)
    torch.testing.assert_close(blocked, whole, atol=1e-12, rtol=0)


def test_half_precision_stays_close() -> None:
    model = encoder(dim=48, feedforward_dim=96).float()
    features, lens = log_mel(2, 203, 16).float(), torch.tensor([203, 90])
    exact, _ = model(features, lens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half, _ = model(features, lens)
    assert (half.float() - exact).square().mean() < 1e-3 * exact.square().mean()


def test_dropout_only_in_training() -> None:
    model = encoder(dropout=0.5)
    features, lens = log_mel(1, 40, 16), torch.tensor([40])
    assert torch.equal(model(features, lens)[0], model(features, lens)[0])
    model.train()
    assert not torch.equal(model(features, lens)[0], model(features, lens)[0])


def test_errors() -> None:
    model = encoder()
    features, lens = log_mel(1, 40, 16), torch.tensor([40])
    with pytest.raises(ValueError, match="chunk_size needs an encoder with causal convolutions"):
        model(features, lens, chunk_size=4)
    with pytest.raises(ValueError, match="streaming needs an encoder with causal convolutions"):
        model.initial_state(1, 4)
    causal = encoder(causal=True)
    with pytest.raises(ValueError, match="chunk_size=0"):
        causal(features, lens, chunk_size=0)
    with pytest.raises(ValueError, match="left_context=-1"):
        causal(features, lens, chunk_size=4, left_context=-1)
    with pytest.raises(ValueError, match="needs 19 input frames, not 16"):
        causal.stream(features[:, :16], causal.initial_state(1, 4), 4)
    with pytest.raises(ValueError, match="streaming needs"):
        model.stream(features[:, :19], causal.initial_state(1, 4), 4)
    with pytest.raises(ValueError, match="dim=15 must be even"):
        encoder(dim=15)
    with pytest.raises(ValueError, match="16 feature channels, not 80"):
        model(log_mel(1, 40, 80), lens)


def test_layers_are_passed_by_more_often_the_deeper_they_are() -> None:
    torch.manual_seed(0)
    encoder = ConformerEncoder(
        dim=8, num_layers=4, num_heads=2, feedforward_dim=8, conv_kernel=3, layer_drop=0.8
    )
    features, lens = torch.randn(1, 23, 80).expand(400, -1, -1), torch.full((400,), 23)
    encoder.dropout.p = 0.0
    for layer in encoder.layers:
        for module in layer.modules():
            if type(module).__name__ == "Dropout":
                module.p = 0.0
    taps = Taps([f"layers.{n}" for n in range(5)])
    with torch.no_grad():
        encoder.train()(features, lens, taps=taps)
        found = [
            float((taps[f"layers.{n}"] == taps[f"layers.{n - 1}"]).flatten(1).all(1).float().mean())
            for n in range(1, 5)
        ]
        for share, wanted in zip(found, (0.2, 0.4, 0.6, 0.8), strict=True):
            assert share == pytest.approx(wanted, abs=0.1)
        taps = Taps(["layers.3", "layers.4"])
        encoder.eval()(features[:2], lens[:2], taps=taps)
        assert not (taps["layers.3"] == taps["layers.4"]).all()
