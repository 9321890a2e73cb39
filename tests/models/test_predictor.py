from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mvqkd.models import StatelessPredictor


@pytest.mark.parametrize("context_size", [1, 2, 3])
def test_forward_equals_steps_from_the_start(context_size: int) -> None:
    torch.manual_seed(0)
    predictor = StatelessPredictor(vocab_size=11, dim=8, context_size=context_size).double()
    tokens = torch.cat([torch.zeros(3, 1, dtype=torch.int64), torch.randint(1, 11, (3, 5))], 1)
    out = predictor(tokens)
    assert out.shape == (3, 6, 8)
    history = torch.full((3, context_size - 1), -1)
    padded = torch.cat([history, tokens], 1)
    assert padded[0, :context_size].tolist() == [-1] * (context_size - 1) + [0]
    for u in range(6):
        step = predictor.step(padded[:, u : u + context_size])
        torch.testing.assert_close(step, out[:, u])


def test_equals_the_sum_over_the_context() -> None:
    torch.manual_seed(0)
    predictor = StatelessPredictor(vocab_size=11, dim=6, context_size=2).double()
    assert predictor.conv.groups == 1  # six channels: no groups of four
    token = predictor.embedding.weight[4]
    only_new = predictor.conv.weight[:, :, 1] @ token
    torch.testing.assert_close(predictor.step(torch.tensor([[-1, 4]]))[0], F.relu(only_new))
    both = only_new + predictor.conv.weight[:, :, 0] @ predictor.embedding.weight[10]
    torch.testing.assert_close(predictor.step(torch.tensor([[10, 4]]))[0], F.relu(both))


def test_negative_ids_are_nothing_and_get_no_gradient() -> None:
    predictor = StatelessPredictor(vocab_size=5, dim=8)
    out = predictor(torch.tensor([[-100, -1, -7]]))
    assert torch.equal(out, torch.zeros_like(out))
    out.sum().backward()
    assert not predictor.embedding.weight.grad.any()


def test_padding_does_not_reach_earlier_positions() -> None:
    predictor = StatelessPredictor(vocab_size=5, dim=8)
    torch.testing.assert_close(
        predictor(torch.tensor([[0, 3, -100, -100]]))[:, :2], predictor(torch.tensor([[0, 3]]))
    )


def test_context_must_be_positive() -> None:
    with pytest.raises(ValueError, match="context_size=0"):
        StatelessPredictor(vocab_size=5, dim=8, context_size=0)
