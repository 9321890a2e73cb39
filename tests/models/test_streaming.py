"""Streaming gives what the masked training forward gives."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mvqkd.models import ConformerEncoder, EncoderState


def encoder(dtype: torch.dtype) -> ConformerEncoder:
    torch.manual_seed(0)
    model = ConformerEncoder(
        input_dim=16,
        dim=24,
        num_layers=3,
        num_heads=2,
        feedforward_dim=32,
        conv_kernel=6,
        causal=True,
        subsampling_channels=8,
    )
    for layer in model.layers:  # zero when new
        torch.nn.init.normal_(layer.attention.content_bias)
        torch.nn.init.normal_(layer.attention.position_bias)
    return model.to(dtype).eval()


def log_mel(frames: int, dtype: torch.dtype, batch: int = 1) -> Tensor:
    return (torch.randn(batch, frames, 16) * 4 - 7).to(dtype)


def chunks_of(features: Tensor, chunk_size: int) -> list[Tensor]:
    """Input of each call for all frames of (N, T, C), the last filled up with zeros."""
    num_frames = (features.size(1) - 3) // 4
    calls = -(-num_frames // chunk_size)
    padded = F.pad(features, (0, 0, 0, 4 * calls * chunk_size + 3 - features.size(1)))
    return [
        padded[:, 4 * i : 4 * (i + chunk_size) + 3]
        for i in range(0, calls * chunk_size, chunk_size)
    ]


WINDOWS = [(1, 0), (1, 5), (4, 0), (4, 3), (4, 8), (5, 7), (8, 1), (16, 64), (40, 2)]


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-4), (torch.float64, 1e-9)])
@pytest.mark.parametrize("chunk_size, left_context", WINDOWS)
@torch.no_grad()
def test_equals_the_masked_forward(
    chunk_size: int, left_context: int, dtype: torch.dtype, tolerance: float
) -> None:
    frames = 32  # a last chunk that is full for some chunk sizes and partial for others
    model = encoder(dtype)
    features = log_mel(4 * frames + 3, dtype, batch=2)
    lens = torch.tensor([features.size(1), 70])
    expected, _ = model(features, lens, chunk_size=chunk_size, left_context=left_context)
    state = model.initial_state(2, left_context)
    outputs = []
    for call, chunk in enumerate(chunks_of(features, chunk_size)):
        assert state.processed.tolist() == [4 * chunk_size * call] * 2
        out, state = model.stream(chunk, state, chunk_size, lens=lens - 4 * chunk_size * call)
        assert out.shape == (2, chunk_size, 24)
        outputs.append(out)
    streamed = torch.cat(outputs, 1)
    assert not streamed[:, frames:].any()
    torch.testing.assert_close(streamed[:, :frames], expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("chunk_size, left_context", WINDOWS)
@torch.no_grad()
def test_without_lengths_the_fill_counts_as_sound(chunk_size: int, left_context: int) -> None:
    model = encoder(torch.float64)
    chunks = chunks_of(log_mel(100, torch.float64), chunk_size)
    filled = torch.cat([chunk[:, : 4 * chunk_size] for chunk in chunks] + [chunks[-1][:, -3:]], 1)
    expected, _ = model(
        filled, torch.tensor([filled.size(1)]), chunk_size=chunk_size, left_context=left_context
    )
    state = model.initial_state(1, left_context)
    for call, chunk in enumerate(chunks):
        out, state = model.stream(chunk, state, chunk_size)
        here = expected[:, call * chunk_size : (call + 1) * chunk_size]
        torch.testing.assert_close(out, here, atol=1e-9, rtol=0)


@torch.no_grad()
def test_streams_at_different_positions_share_a_batch() -> None:
    model = encoder(torch.float64)
    chunk_size, left_context = 4, 6
    utterances = [chunks_of(log_mel(131, torch.float64), chunk_size) for _ in range(3)]
    expected = []
    for chunks in utterances:
        state = model.initial_state(1, left_context)
        outputs = []
        for chunk in chunks:
            out, state = model.stream(chunk, state, chunk_size)
            outputs.append(out)
        expected.append(outputs)
    # Utterance n begins at tick 2n, joins the batch of those under way, and leaves when it ends.
    states: dict[int, EncoderState] = {}
    position = [0, 0, 0]
    for tick in range(12):
        if tick in (0, 2, 4):
            states[tick // 2] = model.initial_state(1, left_context)
        active = [n for n in sorted(states) if position[n] < len(utterances[n])]
        batch = torch.cat([utterances[n][position[n]] for n in active])
        stacked = EncoderState.stack([states[n] for n in active])
        out, stacked = model.stream(batch, stacked, chunk_size)
        for row, (n, state) in enumerate(zip(active, stacked.unstack(), strict=True)):
            here = expected[n][position[n]][0]
            torch.testing.assert_close(out[row], here, atol=1e-12, rtol=0)
            states[n] = state
            position[n] += 1
    assert position == [8, 8, 8]


@torch.no_grad()
def test_the_zeros_of_a_new_state_are_never_attended_to() -> None:
    model = encoder(torch.float64)
    state = model.initial_state(1, 8)
    features = log_mel(4 * 4 + 3, torch.float64)
    expected, following = model.stream(features, state, 4)
    poisoned = state._replace(attention=torch.randn_like(state.attention))
    out, _ = model.stream(features, poisoned, 4)
    assert torch.equal(out, expected)
    # Half of the cache is real after a chunk of four frames: the older half stays unseen.
    again, _ = model.stream(features, following, 4)
    attention = following.attention.clone()
    attention[:, :4] = 1e3
    out, _ = model.stream(features, following._replace(attention=attention), 4)
    assert torch.equal(out, again)
    attention[:, 4] = 1.0
    out, _ = model.stream(features, following._replace(attention=attention), 4)
    assert not torch.equal(out, again)


@torch.no_grad()
def test_a_stream_that_ended_does_no_harm() -> None:
    model = encoder(torch.float64)
    features = log_mel(4 * 4 + 3, torch.float64, batch=2)
    for left_context in (0, 4):
        state = model.initial_state(2, left_context)
        out, state = model.stream(features, state, 4, lens=torch.tensor([19, -16]))
        assert not out[1].any() and bool(state.attention.isfinite().all())
        alone, _ = model.stream(features[:1], model.initial_state(1, left_context), 4)
        torch.testing.assert_close(out[:1], alone, atol=1e-12, rtol=0)


def test_shapes_of_a_state() -> None:
    state = encoder(torch.float32).initial_state(5, 7)
    assert state.attention.shape == (3, 7, 5, 24)
    assert state.convolution.shape == (3, 5, 5, 24)
    assert state.processed.shape == (5,) and state.processed.dtype == torch.int64
    assert encoder(torch.float64).initial_state(1, 2).attention.dtype == torch.float64
    assert (
        encoder(torch.float64).initial_state(1, 2, dtype=torch.float32).attention.dtype
        == torch.float32
    )


@torch.no_grad()
def test_any_left_context_and_chunk_after_training_with_others() -> None:
    """Dynamic chunk training: nothing about the chunk is fixed in the module."""
    model = encoder(torch.float64)
    features, lens = log_mel(67, torch.float64), torch.tensor([67])
    outputs = [
        model(features, lens, chunk_size=chunk_size, left_context=left_context)[0]
        for chunk_size, left_context in [(2, 4), (8, 4), (8, None), (None, None)]
    ]
    for index, one in enumerate(outputs):
        for other in outputs[index + 1 :]:
            assert not torch.allclose(one, other)
