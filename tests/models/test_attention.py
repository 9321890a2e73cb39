from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mvqkd.models.attention import RelativeAttention
from mvqkd.models.masks import Block, attention_blocks, valid_frames
from mvqkd.models.positions import relative_sinusoids
from mvqkd.models.taps import Taps

DIM, HEADS = 8, 2


@pytest.fixture
def attention() -> RelativeAttention:
    torch.manual_seed(0)
    module = RelativeAttention(dim=DIM, num_heads=HEADS).double()
    for bias in (module.content_bias, module.position_bias):  # zero when new
        torch.nn.init.normal_(bias)
    return module


def sinusoid(distance: int) -> Tensor:
    angle = [distance / 10000 ** (2 * k / DIM) for k in range(DIM // 2)]
    return torch.tensor([math.sin(a) for a in angle] + [math.cos(a) for a in angle]).double()


def brute_force(module: RelativeAttention, x: Tensor, memory: Tensor, seen: Tensor) -> Tensor:
    """Section 3.3 of arXiv 1901.02860, pair by pair; seen is (N, T, S) bool."""
    d = DIM // HEADS
    offset = memory.size(1) - x.size(1)
    out = torch.zeros_like(x)
    query = module.query(x)
    key, value = module.key_value(memory).chunk(2, -1)
    for n in range(x.size(0)):
        for h in range(HEADS):
            part = slice(h * d, (h + 1) * d)
            for i in range(x.size(1)):
                keys = [j for j in range(memory.size(1)) if seen[n, i, j]]
                scores = []
                for j in keys:
                    r = module.position(sinusoid(i + offset - j))[part]
                    content = (query[n, i, part] + module.content_bias[h, 0, 0]) @ key[n, j, part]
                    distance = (query[n, i, part] + module.position_bias[h, 0, 0]) @ r
                    scores.append((content + distance) / math.sqrt(d))
                weights = torch.stack(scores).softmax(0)
                out[n, i, part] = weights @ value[n, keys][:, part]
    return module.output(out)


@pytest.mark.parametrize("frames, cached", [(1, 0), (5, 0), (1, 4), (3, 4)])
def test_equals_pair_by_pair(attention: RelativeAttention, frames: int, cached: int) -> None:
    memory = torch.randn(2, cached + frames, DIM).double()
    x = memory[:, cached:]
    seen = torch.rand(2, frames, cached + frames) < 0.6
    seen[..., -1] = True
    bias = torch.zeros(seen.shape).double().masked_fill(~seen, -torch.inf)
    positions = relative_sinusoids(frames, cached + frames, DIM, x)
    out = attention(x, memory, positions, [Block((0, frames), (0, cached + frames), bias)])
    # Sinusoids are computed in float32, whatever the model.
    torch.testing.assert_close(out, brute_force(attention, x, memory, seen), atol=1e-6, rtol=0)


def test_gradients_equal_pair_by_pair(attention: RelativeAttention) -> None:
    cached, frames = 4, 5
    memory = torch.randn(2, cached + frames, DIM).double().requires_grad_()
    seen = torch.rand(2, frames, cached + frames) < 0.6
    seen[..., -1] = True
    bias = torch.zeros(seen.shape).double().masked_fill(~seen, -torch.inf)
    positions = relative_sinusoids(frames, cached + frames, DIM, memory)
    blocks = [
        Block((0, 2), (0, cached + frames), bias[:, :2]),
        Block((2, frames), (0, cached + frames), bias[:, 2:]),
    ]
    direction = torch.randn(2, frames, DIM).double()
    inputs = [memory, *attention.parameters()]
    x = memory[:, cached:]
    out = attention(x, memory, positions, blocks)
    gradients = torch.autograd.grad(out, inputs, direction)
    expected = torch.autograd.grad(brute_force(attention, x, memory, seen), inputs, direction)
    for got, want in zip(gradients, expected, strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=0)
    with torch.no_grad():  # another way through the code
        torch.testing.assert_close(attention(x, memory, positions, blocks), out, atol=1e-12, rtol=0)


@pytest.mark.parametrize("chunk_size, left_context", [(None, None), (3, 4), (2, None)])
def test_blocks_change_nothing(
    attention: RelativeAttention, chunk_size: int | None, left_context: int | None
) -> None:
    x = torch.randn(2, 13, DIM).double().requires_grad_()
    direction = torch.randn(2, 13, DIM).double()
    valid = valid_frames(torch.tensor([13, 6]), 13)
    positions = relative_sinusoids(13, 13, DIM, x)
    whole, *others = (
        attention(
            x,
            x,
            positions,
            attention_blocks(
                valid,
                chunk_size=chunk_size,
                left_context=left_context,
                block_size=block_size,
                dtype=x.dtype,
            ),
        )
        for block_size in (None, 3, 6, 12)
    )
    inputs = [x, *attention.parameters()]
    expected = torch.autograd.grad(whole, inputs, direction)
    for other in others:
        torch.testing.assert_close(other, whole, atol=1e-12, rtol=0)
        gradients = torch.autograd.grad(other, inputs, direction)
        for got, want in zip(gradients, expected, strict=True):
            torch.testing.assert_close(got, want, atol=1e-12, rtol=0)


def test_taps_are_the_projections(attention: RelativeAttention) -> None:
    x = torch.randn(2, 5, DIM).double()
    taps = Taps(["a.query", "a.value"])
    bias = torch.zeros(2, 1, 5).double()
    positions = relative_sinusoids(5, 5, DIM, x)
    attention(x, x, positions, [Block((0, 5), (0, 5), bias)], taps=taps, name="a")
    assert set(taps) == {"a.query", "a.value"}
    assert taps["a.query"].shape == (2, HEADS, 5, DIM // HEADS)
    query = attention.query(x).view(2, 5, HEADS, -1).transpose(1, 2)
    value = attention.key_value(x)[..., DIM:].reshape(2, 5, HEADS, -1).transpose(1, 2)
    torch.testing.assert_close(taps["a.query"], query)
    torch.testing.assert_close(taps["a.value"], value)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="num_heads=3 does not divide dim=8"):
        RelativeAttention(dim=8, num_heads=3)


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_dropout_of_weights_has_its_gradient(chunk_size: int | None) -> None:
    torch.manual_seed(0)
    module = RelativeAttention(dim=DIM, num_heads=HEADS, dropout=0.4).double()
    valid = torch.ones(2, 5, dtype=torch.bool)
    blocks = attention_blocks(
        valid, chunk_size=chunk_size, left_context=None, block_size=99, dtype=torch.float64
    )
    x = torch.randn(2, 5, DIM, dtype=torch.float64, requires_grad=True)
    positions = relative_sinusoids(5, 5, DIM, x)

    def attend(x: Tensor) -> Tensor:
        torch.manual_seed(3)  # the same weights are dropped
        return module(x, x, positions, blocks)

    assert torch.autograd.gradcheck(attend, (x,))
    with torch.no_grad():
        assert torch.equal(attend(x), attend(x))
        dropped = torch.stack([module(x, x, positions, blocks) for _ in range(4000)])
        module.eval()
        whole = module(x, x, positions, blocks)
    assert not torch.allclose(dropped[0], whole)
    assert (dropped.mean(0) - whole).abs().max() < 6 * float(dropped.std(0).max()) / 4000**0.5
