"""Relations of attention, against loops, by their gradient and by what they hold in memory."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from mvqkd.distillation.relations import regroup_heads, relation_loss


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=random, dtype=dtype)


def by_loops(student: Tensor, teacher: Tensor, lens: Tensor) -> Tensor:
    """Frame by frame, without padding."""
    losses = []
    for n, length in enumerate(lens.tolist()):
        total = torch.zeros((), dtype=torch.float64)
        for head in range(student.size(1)):
            x, y = student[n, head, :length], teacher[n, head, :length]
            for t in range(length):
                p, q = (
                    torch.stack([z[t] @ z[k] for k in range(length)])
                    .div(math.sqrt(z.size(1)))
                    .softmax(0)
                    for z in (y, x)
                )
                total = total + sum(a * (a.log() - b.log()) for a, b in zip(p, q, strict=True))
        losses.append(total / student.size(1))
    return torch.stack(losses)


@pytest.mark.parametrize("block", [1, 30, 2**22])
def test_is_the_sum_of_divergences(block: int) -> None:
    x = noise(3, 2, 6, 4).requires_grad_()
    y, lens = noise(3, 2, 6, 5, seed=1), torch.tensor([6, 1, 4])
    found, wanted = relation_loss(x, y, lens, block=block), by_loops(x, y, lens)
    assert_close(found, wanted)
    assert found[1] == 0  # one frame attends to itself
    scales = torch.tensor([1.0, 2.0, -3.0], dtype=torch.float64)
    (got,) = torch.autograd.grad((found * scales).sum(), x)
    (expected,) = torch.autograd.grad((wanted * scales).sum(), x)
    assert_close(got, expected)


@pytest.mark.parametrize("block", [7, 2**22])
def test_the_gradient_is_that_of_the_loss(block: int) -> None:
    x = noise(2, 2, 5, 3).requires_grad_()
    y, lens = noise(2, 2, 5, 4, seed=1), torch.tensor([5, 3])
    assert torch.autograd.gradcheck(lambda x: relation_loss(x, y, lens, block=block), x)


def test_equal_relations_cost_nothing() -> None:
    x = noise(2, 2, 5, 3).requires_grad_()
    turned = x.detach() @ torch.linalg.qr(noise(3, 3, seed=2)).Q  # products stay as they are
    losses = relation_loss(x, turned, torch.tensor([5, 4]))
    assert_close(losses, torch.zeros_like(losses))
    (grad,) = torch.autograd.grad(losses.sum(), x)
    assert_close(grad, torch.zeros_like(grad))


def test_padding_changes_nothing() -> None:
    x, y = noise(1, 2, 4, 3, dtype=torch.float32), noise(1, 2, 4, 3, seed=1, dtype=torch.float32)
    alone = x.clone().requires_grad_()
    lens = torch.tensor([4])
    wanted = relation_loss(alone, y, lens)
    wanted.sum().backward()
    for rubbish in (0.0, 1e30, torch.inf, torch.nan):
        tail = torch.full((1, 2, 3, 3), rubbish)
        padded = torch.cat([x, tail], 2).requires_grad_()
        found = relation_loss(padded, torch.cat([y, tail], 2), lens)
        assert_close(found, wanted)
        found.sum().backward()
        assert_close(padded.grad[:, :, :4], alone.grad)
        assert not padded.grad[:, :, 4:].any()


def test_an_utterance_of_padding_alone_has_no_loss() -> None:
    x = noise(2, 2, 4, 3).requires_grad_()
    losses = relation_loss(x, noise(2, 2, 4, 3, seed=1), torch.tensor([0, 4]))
    losses.sum().backward()
    assert losses[0] == 0 and losses[1] > 0
    assert not x.grad[0].any() and x.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    x, y = (noise(2, 2, 30, 8, seed=seed).mul(4).to(dtype) for seed in (0, 1))
    lens = torch.tensor([30, 20])
    x.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        losses = relation_loss(x, y, lens)
    losses.sum().backward()
    exact = x.detach().double().requires_grad_()
    wanted = relation_loss(exact, y.double(), lens)
    wanted.sum().backward()
    assert losses.dtype == torch.float32 and x.grad.dtype == dtype
    assert_close(losses.double(), wanted, rtol=1e-5, atol=1e-5)
    assert_close(x.grad.double(), exact.grad, rtol=1e-2, atol=1e-3)


class Largest(TorchDispatchMode):
    """The largest tensor that any operation returns, in elements."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_flatten(out)[0]:
            if isinstance(leaf, Tensor):
                self.elements = max(self.elements, leaf.numel())
        return out


def test_no_map_is_held() -> None:
    """An utterance of 8 heads, whose maps would be 20 times as large as its queries."""
    frames, heads, width, block = 160, 8, 8, 20_000
    x = noise(1, heads, frames, width, dtype=torch.float32).requires_grad_()
    y, lens = x.detach().flip(2), torch.tensor([frames])
    saved = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal saved
        saved += tensor.numel()
        return tensor

    one_map = heads * frames * frames
    counted = torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor)
    with counted, Largest() as largest:
        loss = sum(relation_loss(x * scale, y, lens, block=block) for scale in (1, 2, 3))
        loss.sum().backward()
    assert largest.elements < max(block, x.numel()) + 1 < one_map / 8
    assert saved < 8 * x.numel() < one_map


def test_without_gradients_none_is_computed() -> None:
    x, lens = noise(1, 2, 4, 3).requires_grad_(), torch.tensor([4])
    with torch.no_grad():
        assert not relation_loss(x, noise(1, 2, 4, 3, seed=1), lens).requires_grad


def test_heads_are_divided_anew() -> None:
    x = noise(2, 2, 5, 6)
    assert regroup_heads(x, 2) is x
    four = regroup_heads(x, 4)
    assert four.shape == (2, 4, 5, 3)
    assert torch.equal(four[:, 1], x[:, 0, :, 3:]) and torch.equal(four[:, 2], x[:, 1, :, :3])
    with pytest.raises(ValueError, match="5 heads do not divide 12 channels"):
        regroup_heads(x, 5)
    with pytest.raises(ValueError, match="cannot be compared"):
        relation_loss(x, four, torch.tensor([5, 5]))
