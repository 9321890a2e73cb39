"""Cross-entropy with smoothed labels."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from mvqkd.losses import cross_entropy_loss, decoder_inputs, decoder_targets

TOKENS = torch.tensor([[3, 4, 5], [5, -100, -100], [-100, -100, -100]])
LENS = torch.tensor([3, 1, 0])


def test_inputs_begin_and_targets_end_with_the_token_of_both():
    assert decoder_inputs(TOKENS, 1).tolist() == [[1, 3, 4, 5], [1, 5, 1, 1], [1, 1, 1, 1]]
    targets = decoder_targets(TOKENS, LENS, 1)
    pad = -100
    assert targets.tolist() == [[3, 4, 5, 1], [5, 1, pad, pad], [1, pad, pad, pad]]


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
def test_closed_form(smoothing):
    torch.manual_seed(0)
    logits = torch.randn(3, 4, 6, dtype=torch.float64)
    targets = decoder_targets(TOKENS, LENS, 1)
    found = cross_entropy_loss(logits, targets, smoothing=smoothing)
    for k in range(3):
        expected = 0.0
        for u in range(4):
            if targets[k, u] < 0:
                continue
            exponentials = [math.exp(x) for x in logits[k, u].tolist()]
            probabilities = [x / sum(exponentials) for x in exponentials]
            for v, p in enumerate(probabilities):
                label = smoothing / 6 + (1 - smoothing) * (v == int(targets[k, u]))
                expected -= label * math.log(p)
        assert found[k].item() == pytest.approx(expected, rel=1e-12)


def test_gradient():
    torch.manual_seed(0)
    logits = torch.randn(3, 4, 6, dtype=torch.float64, requires_grad=True)
    targets = decoder_targets(TOKENS, LENS, 1)
    assert torch.autograd.gradcheck(
        lambda x: cross_entropy_loss(x, targets, smoothing=0.2), (logits,)
    )


def test_uniform_logits_cost_log_v_a_token_in_float32():
    loss = cross_entropy_loss(
        torch.zeros(3, 4, 6, dtype=torch.bfloat16), decoder_targets(TOKENS, LENS, 1), smoothing=0.1
    )
    assert loss.dtype == torch.float32
    assert_close(loss, torch.tensor([4.0, 2.0, 1.0]) * math.log(6))
