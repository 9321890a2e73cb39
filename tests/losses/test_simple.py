"""The simple joiner against the same with everything materialised."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mvqkd.losses.simple import simple_log_probs


def random_inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    am = torch.randn(3, 6, 7, generator=generator, dtype=dtype)
    lm = torch.randn(3, 5, 7, generator=generator, dtype=dtype)
    tokens = torch.randint(1, 7, (3, 4), generator=generator)
    return am, lm, tokens, torch.tensor([6, 4, 5]), torch.tensor([4, 1, 3])


def materialised(
    am: Tensor, lm: Tensor, tokens: Tensor, token_lens: Tensor, lm_scale: float, am_scale: float
) -> tuple[Tensor, Tensor]:
    """The definition, with (N, T, U + 1, V) tensors."""
    valid = torch.arange(lm.shape[1]) <= token_lens[:, None]
    unigram = lm.softmax(2)[valid].mean(0)
    log_probs = (
        (1 - lm_scale - am_scale) * (am[:, :, None] + lm[:, None]).log_softmax(3)
        + lm_scale * lm.log_softmax(2)[:, None]
        + am_scale * (am + unigram.log()).log_softmax(2)[:, :, None]
    )
    index = tokens[:, None, :, None].expand(-1, am.shape[1], -1, 1)
    return log_probs[:, :, :-1].gather(3, index).squeeze(3), log_probs[..., 0]


SCALES = [(0.0, 0.0), (0.25, 0.0), (0.0, 0.3), (0.25, 0.5)]


@pytest.mark.parametrize(("lm_scale", "am_scale"), SCALES)
def test_equals_the_materialised_definition(lm_scale: float, am_scale: float) -> None:
    am, lm, tokens, lens, token_lens = random_inputs()
    found = simple_log_probs(am, lm, tokens, lens, token_lens, lm_scale=lm_scale, am_scale=am_scale)
    expected = materialised(am, lm, tokens, token_lens, lm_scale, am_scale)
    for values, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(values, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("lm_scale", "am_scale"), SCALES)
def test_gradient_is_the_derivative(lm_scale: float, am_scale: float) -> None:
    am, lm, *rest = random_inputs()
    torch.autograd.gradcheck(
        lambda am, lm: simple_log_probs(am, lm, *rest, lm_scale=lm_scale, am_scale=am_scale),
        (am.requires_grad_(), lm.requires_grad_()),
    )


def test_an_utterance_does_not_depend_on_what_pads_it() -> None:
    am, lm, tokens, lens, token_lens = random_inputs()
    keywords = {"lm_scale": 0.25, "am_scale": 0.25}
    symbol, blank = simple_log_probs(am, lm, tokens, lens, token_lens, **keywords)
    for n in range(3):
        lm[n, token_lens[n] + 1 :] = 50.0
        tokens[n, token_lens[n] :] = 0
    again_symbol, again_blank = simple_log_probs(am, lm, tokens, lens, token_lens, **keywords)
    for n in range(3):
        u = int(token_lens[n])
        torch.testing.assert_close(again_symbol[n, :, :u], symbol[n, :, :u], rtol=0, atol=1e-12)
        torch.testing.assert_close(
            again_blank[n, :, : u + 1], blank[n, :, : u + 1], rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("scale", [100.0, 1e4])
def test_extreme_logits_give_no_nan(scale: float) -> None:
    am, lm, *rest = random_inputs(torch.float32)
    am, lm = (am * scale).requires_grad_(), (lm * scale).requires_grad_()
    symbol, blank = simple_log_probs(am, lm, *rest, lm_scale=0.25, am_scale=0.25)
    assert symbol.isfinite().all() and blank.isfinite().all()
    (symbol.sum() + blank.sum()).backward()
    assert am.grad is not None and am.grad.isfinite().all()
    assert lm.grad is not None and lm.grad.isfinite().all()
