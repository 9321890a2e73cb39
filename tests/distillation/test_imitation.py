"""Imitation of frames, present and future, against loops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from mvqkd.distillation.imitation import feature_loss, future_loss
from tests.distillation.test_relations import noise


def by_loops(student: Tensor, teacher: Tensor, lens: Tensor, shift: int = 0) -> Tensor:
    losses = []
    for n, length in enumerate(lens.tolist()):
        total = torch.zeros((), dtype=torch.float64)
        for t in range(length - shift):
            h, z = teacher[n, t + shift], student[n, t]
            cosine = (h @ z) / (h @ h).sqrt() / (z @ z).sqrt()
            total = total + sum((h - z).abs()) / len(h) - torch.sigmoid(cosine).log()
        losses.append(total)
    return torch.stack(losses)


@pytest.mark.parametrize("shift", [0, 1, 3, 7, 50])
def test_are_sums_over_frames(shift: int) -> None:
    z, h, lens = noise(3, 7, 4), noise(3, 7, 4, seed=1), torch.tensor([7, 1, 4])
    z.requires_grad_()
    found = future_loss(z, h, lens, shift) if shift else feature_loss(z, h, lens)
    wanted = by_loops(z, h, lens, shift)
    assert_close(found, wanted)
    assert ((found > 0) == (lens > shift)).all()
    (got,) = torch.autograd.grad(found.sum(), z)
    if shift < 7:
        assert_close(got, torch.autograd.grad(wanted.sum(), z)[0])
    else:
        assert not got.any()


def test_gradients_are_those_of_the_losses() -> None:
    z, h, lens = noise(2, 5, 3).requires_grad_(), noise(2, 5, 3, seed=1), torch.tensor([5, 3])
    assert torch.autograd.gradcheck(lambda z: feature_loss(z, h, lens), z)
    assert torch.autograd.gradcheck(lambda z: future_loss(z, h, lens, 2), z)


@pytest.mark.parametrize("rubbish", [0.0, 1e30, torch.inf, torch.nan])
def test_padding_changes_nothing(rubbish: float) -> None:
    z, h = noise(2, 5, 3, dtype=torch.float32), noise(2, 5, 3, seed=1, dtype=torch.float32)
    lens = torch.tensor([5, 0])
    alone = z.clone().requires_grad_()
    padded = torch.cat([z, torch.full((2, 4, 3), rubbish)], 1)
    padded[1] = rubbish  # an utterance of padding alone
    padded.requires_grad_()
    wide = torch.cat([h, torch.full((2, 4, 3), rubbish)], 1)
    for loss in (feature_loss, lambda *args: future_loss(*args, 2)):
        wanted, found = loss(alone, h, lens), loss(padded, wide, lens)
        assert_close(found, wanted)
        assert found[1] == 0
        (expected,) = torch.autograd.grad(wanted.sum(), alone)
        (got,) = torch.autograd.grad(found.sum(), padded)
        assert_close(got[0, :5], expected[0])
        assert not got[0, 5:].any() and not got[1].any()


def test_frames_of_zeros_have_a_gradient() -> None:
    z = torch.zeros(1, 3, 4, requires_grad=True)
    feature_loss(z, torch.ones(1, 3, 4), torch.tensor([3])).sum().backward()
    assert z.grad.isfinite().all()


def test_half_precision_is_computed_in_float32() -> None:
    z, h = noise(1, 600, 8).bfloat16(), noise(1, 600, 8, seed=1).bfloat16()
    lens = torch.tensor([600])
    with torch.autocast("cpu", torch.bfloat16):
        found = feature_loss(z, h, lens)
    assert found.dtype == torch.float32
    assert_close(found.double(), by_loops(z.double(), h.double(), lens), rtol=1e-5, atol=0)
