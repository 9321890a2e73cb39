"""The joiner within the band: fused against plain automatic differentiation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from mvqkd.losses import joint
from mvqkd.losses.band import make_band
from mvqkd.losses.joint import joint_log_probs, tanh_joint_log_probs
from mvqkd.models.joiner import Joiner

DIM, VOCAB, RANGE = 6, 11, 3
LENS = torch.tensor([5, 3, 0])
STARTS = torch.tensor([[0, 0, 1, 2, 2], [0, 1, 2, 2, 2], [0, 0, 0, 0, 0]])


def make_joiner(dtype: torch.dtype = torch.float64) -> Joiner:
    torch.manual_seed(0)
    return Joiner(encoder_dim=DIM, predictor_dim=DIM, joiner_dim=DIM, vocab_size=VOCAB).to(dtype)


def random_inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    encoder = torch.randn(3, 5, DIM, generator=generator, dtype=dtype)
    predictor = torch.randn(3, 5, DIM, generator=generator, dtype=dtype)
    return encoder, predictor, torch.randint(1, VOCAB, (3, 4), generator=generator)


def plain(encoder: Tensor, predictor: Tensor, joiner: nn.Module, tokens: Tensor) -> list[Tensor]:
    """The full lattice by the joiner itself, with everything outside of the band cut off."""
    log_probs = joiner(encoder[:, :, None], predictor[:, None]).log_softmax(3)
    index = tokens[:, None, :, None].expand(-1, encoder.shape[1], -1, 1)
    window = torch.arange(5) - STARTS[:, :, None]
    inside = (window >= 0) & (window < RANGE) & (torch.arange(5) < LENS[:, None])[:, :, None]
    symbol = log_probs[:, :, :-1].gather(3, index).squeeze(3)
    return [
        symbol.masked_fill(~inside[:, :, :-1], -math.inf),
        log_probs[..., 0].masked_fill(~inside, -math.inf),
    ]


@pytest.mark.parametrize("chunk_elements", [1, 70, 10**6])
@pytest.mark.parametrize(("fused", "dense"), [(True, False), (True, True), (False, False)])
def test_values_and_gradients_equal_plain_differentiation(
    fused: bool, dense: bool, chunk_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joint, "_CPU_CHUNK", chunk_elements)
    if dense:  # as on CUDA
        monkeypatch.setattr(joint, "_needed_cells", lambda *_: None)
    joiner = make_joiner()
    encoder, predictor, tokens = random_inputs()
    sources = [encoder.requires_grad_(), predictor.requires_grad_(), *joiner.output.parameters()]
    expected = plain(encoder, predictor, joiner, tokens)
    band = make_band(STARTS, LENS, RANGE)
    if fused:
        found = tanh_joint_log_probs(encoder, predictor, joiner.output, tokens, band)
    else:
        found = joint_log_probs(encoder, predictor, joiner, tokens, band)
    weights = torch.rand_like(expected[1])

    def gradients(symbol: Tensor, blank: Tensor) -> tuple[Tensor, ...]:
        inside = symbol.isfinite(), blank.isfinite()
        total = (symbol * weights[:, :, 1:])[inside[0]].sum() + (blank * weights)[inside[1]].sum()
        return torch.autograd.grad(total, sources)

    for values, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(values, wanted, rtol=0, atol=1e-12)
    for values, wanted in zip(gradients(*found), gradients(*expected), strict=True):
        torch.testing.assert_close(values, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
def test_fused_gradient_is_the_derivative(bias: bool) -> None:
    output = nn.Linear(DIM, VOCAB, bias=bias).double()
    encoder, predictor = torch.randn(4, DIM).double(), torch.randn(7, DIM).double()
    rows, tokens = torch.randint(0, 7, (4, 2)), torch.randint(0, VOCAB, (4, 2))

    def function(*arguments: Tensor) -> tuple[Tensor, Tensor]:
        encoder, predictor, weight, *rest = arguments
        return joint._TanhLinearLogProbs.apply(
            encoder, predictor, rows, weight, rest[0] if rest else None, tokens
        )

    arguments = [x.requires_grad_() for x in (encoder, predictor, *output.parameters())]
    torch.autograd.gradcheck(function, arguments)


@pytest.mark.parametrize("chunk_elements", [1, 200, 10**6])
def test_leaving_out_cells_of_negligible_gradient_costs_no_accuracy(
    chunk_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joint, "_CPU_CHUNK", chunk_elements)
    generator = torch.Generator().manual_seed(2)
    encoder, predictor = (torch.randn(n, DIM, generator=generator) for n in (50, 30))
    rows = torch.randint(0, 30, (50, 4), generator=generator)
    tokens = torch.randint(0, VOCAB, (50, 4), generator=generator)
    # Sizes from 1 to 1e-20, as in lattices; whole frames without gradient, as in impossible ones.
    weights = 10 ** (-20 * torch.rand(2, 50, 4, generator=generator))
    weights[:, 20:30] = 0
    output = make_joiner(torch.float32).output
    arguments = [x.detach() for x in (encoder, predictor, output.weight, output.bias)]

    def gradients(dtype: torch.dtype) -> tuple[Tensor, ...]:
        leaves = [x.to(dtype).requires_grad_() for x in arguments]
        log_probs = joint._TanhLinearLogProbs.apply(*leaves[:2], rows, *leaves[2:], tokens)
        return torch.autograd.grad(log_probs, leaves, tuple(weights.to(dtype)))

    needed = joint._needed_cells(*weights)
    assert needed is not None
    assert 0.2 < needed.double().mean() < 0.8
    computed = []
    plain = joint._grad_logits
    monkeypatch.setattr(joint, "_grad_logits", lambda *x: computed.append(len(x[0])) or plain(*x))
    found = gradients(torch.float32)
    assert sum(computed) == needed.sum()
    for values, exact in zip(found, gradients(torch.float64), strict=True):
        assert (values - exact).abs().max() < 1e-6 * exact.abs().max()


def test_cells_are_left_out_by_the_largest_gradient_of_their_frame() -> None:
    eps = torch.finfo(torch.float32).eps
    symbol = torch.tensor(
        [[1.0, 2 * eps, 0.0], [0.0, 0.0, 0.0], [1e-20, 1e-25, 1e-28], [1.0, 0.0, 0.0]]
    )
    blank = torch.tensor(
        [[0.0, 0.0, -eps / 2], [0.0, 0.0, 0.0], [0.0, -1e-24, 0.0], [0.0, 0.0, math.nan]]
    )
    needed = joint._needed_cells(symbol, blank)
    assert needed is not None
    assert needed.view(4, 3).tolist() == [
        [True, True, False],
        [False, False, False],
        [True, True, False],
        [True, True, True],  # nan must not be hidden
    ]


def test_gradients_survive_a_second_backward_pass() -> None:
    encoder, predictor, tokens = random_inputs()
    encoder.requires_grad_()
    _, blank = tanh_joint_log_probs(
        encoder, predictor, make_joiner().output, tokens, make_band(STARTS, LENS, RANGE)
    )
    total = blank[blank.isfinite()].sum()
    first = torch.autograd.grad(total, encoder, retain_graph=True)
    assert torch.equal(*first, *torch.autograd.grad(total, encoder))


def test_autocast_uses_its_type_for_products_only() -> None:
    joiner = make_joiner(torch.float32)
    encoder, predictor, tokens = random_inputs(torch.float32)
    sources = [encoder.requires_grad_(), predictor.requires_grad_(), *joiner.output.parameters()]
    band = make_band(STARTS, LENS, RANGE)
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            symbol, blank = tanh_joint_log_probs(encoder, predictor, joiner.output, tokens, band)
        assert symbol.dtype == blank.dtype == torch.float32
        total = symbol[symbol.isfinite()].sum() + blank[blank.isfinite()].sum()
        results.append([total, *torch.autograd.grad(total, sources)])
    for exact, rounded in zip(*results, strict=True):
        assert rounded.dtype == exact.dtype
        assert (exact - rounded).norm() < 0.02 * exact.norm()
    assert not torch.equal(results[0][0], results[1][0])


def test_extreme_logits_give_no_nan() -> None:
    joiner = make_joiner(torch.float32)
    with torch.no_grad():
        joiner.output.weight *= 1e4
    encoder, predictor, tokens = random_inputs(torch.float32)
    encoder.requires_grad_()
    symbol, blank = tanh_joint_log_probs(
        encoder, predictor, joiner.output, tokens, make_band(STARTS, LENS, RANGE)
    )
    assert not symbol.isnan().any() and not blank.isnan().any()
    blank[blank.isfinite()].sum().backward()
    assert encoder.grad is not None and encoder.grad.isfinite().all()
