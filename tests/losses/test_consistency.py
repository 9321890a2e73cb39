from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from mvqkd.losses import consistency_loss


def views(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, 5, 3, generator=generator, dtype=torch.float64)


def test_each_view_is_drawn_to_the_other() -> None:
    logits, lens = views().requires_grad_(), torch.tensor([5, 2, 5, 2])
    log_probs = logits.log_softmax(-1)
    losses = consistency_loss(log_probs, lens)
    for n in range(4):
        other = (n + 2) % 4
        wanted = sum(
            (log_probs[other, t].exp() * (log_probs[other, t] - log_probs[n, t])).sum()
            for t in range(int(lens[n]))
        )
        assert_close(losses[n], wanted)
    # The gradient of KL(sg(b) || a) at the logits of a is a - b; b gets none.
    (gradient,) = torch.autograd.grad(losses[0], logits)
    probs = log_probs.detach().exp()
    assert_close(gradient[0], probs[0] - probs[2])
    assert not gradient[1:].any()


def test_padding_does_not_count_and_equal_views_agree() -> None:
    log_probs, lens = views().log_softmax(-1), torch.tensor([3, 0, 3, 0])
    spoiled = log_probs.clone()
    spoiled[0, 3:], spoiled[1] = float("nan"), float("inf")
    losses = consistency_loss(spoiled, lens)
    assert_close(losses, consistency_loss(log_probs, lens))
    assert losses[1] == 0
    same = log_probs[:2].repeat(2, 1, 1)
    assert_close(consistency_loss(same, torch.tensor([5, 5, 5, 5])), torch.zeros(4).double())


def test_an_odd_number_of_views_is_refused() -> None:
    with pytest.raises(ValueError, match="3 views"):
        consistency_loss(views()[:3].log_softmax(-1), torch.tensor([5, 5, 5]))
