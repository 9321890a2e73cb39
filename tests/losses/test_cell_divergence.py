"""Divergence of two transducers in cells of lattices, against loops over cells."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from mvqkd.losses import cell_divergence as module
from mvqkd.losses.band import Band, make_band
from mvqkd.losses.cell_divergence import JoinerInput, cell_divergence
from mvqkd.models.joiner import Joiner

VOCAB, RANGE = 7, 3
LENS, TOKEN_LENS = torch.tensor([5, 3, 1]), torch.tensor([4, 2, 0])
STARTS = torch.tensor([[0, 0, 1, 2, 2], [0, 1, 1, 1, 1], [0, 0, 0, 0, 0]])
BAND = make_band(STARTS, LENS, RANGE)


def side(seed: int, dim: int = 4) -> JoinerInput:
    torch.manual_seed(seed)
    joiner = Joiner(encoder_dim=dim, predictor_dim=dim + 1, joiner_dim=6, vocab_size=VOCAB)
    encoder, predictor = torch.randn(3, 5, dim), torch.randn(3, 5, dim + 1)
    return JoinerInput(encoder.double(), predictor.double(), joiner.double())


STUDENT, TEACHER = side(0), side(1, 3)
TOKENS = torch.tensor([[3, 1, 6, 3], [2, 5, 0, 0], [0, 0, 0, 0]])


def distribution(inputs: JoinerInput, n: int, t: int, u: int, collapsed: bool) -> list[Tensor]:
    encoder, predictor = inputs.projected()
    probabilities = inputs.joiner(encoder[n, t], predictor[n, u]).softmax(0)
    if not collapsed:
        return list(probabilities)
    single = {0, int(TOKENS[n, u])} if u < TOKEN_LENS[n] else {0}
    rest = sum(p for k, p in enumerate(probabilities) if k not in single)
    return [*(probabilities[k] for k in sorted(single)), rest]


def loops(delay: int, collapsed: bool) -> Tensor:
    losses = [torch.zeros((), dtype=torch.float64) for _ in LENS]
    for n, length in enumerate(LENS.tolist()):
        for t in range(delay, length):
            for u in range(int(STARTS[n, t]), int(STARTS[n, t]) + RANGE):
                if u > TOKEN_LENS[n]:
                    continue
                p = distribution(TEACHER, n, t - delay, u, collapsed)
                q = distribution(STUDENT, n, t, u, collapsed)
                losses[n] = losses[n] + sum(a * (a / b).log() for a, b in zip(p, q, strict=True))
    return torch.stack(losses)


@pytest.mark.parametrize("chunk", [1, 9 * VOCAB, 10**6])
@pytest.mark.parametrize("collapsed", [False, True])
@pytest.mark.parametrize("delay", [0, 1, 4])
def test_equals_a_loop_over_cells(delay, collapsed, chunk, monkeypatch) -> None:
    monkeypatch.setattr(module, "_CPU_CHUNK", chunk)
    sources = [STUDENT.encoder, STUDENT.predictor]
    for source in sources:
        source.requires_grad_()
    sources += STUDENT.joiner.parameters()
    found = cell_divergence(
        STUDENT, TEACHER, TOKENS, TOKEN_LENS, BAND, delay=delay, collapsed=collapsed
    )
    wanted = loops(delay, collapsed)
    assert_close(found, wanted)
    assert (found > 0).tolist() == (delay < LENS).tolist()
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    # None of the teacher's parameters has a gradient.
    theirs = list(TEACHER.joiner.parameters())
    grads = torch.autograd.grad((found * weights).sum(), sources + theirs, allow_unused=True)
    expected = torch.autograd.grad((wanted * weights).sum(), sources)
    assert all(grad is None for grad in grads[len(sources) :])
    assert_close(list(grads[: len(sources)]), list(expected))


@pytest.mark.parametrize("collapsed", [False, True])
def test_gradients_are_those_of_differences(collapsed) -> None:
    def loss(encoder: Tensor, predictor: Tensor) -> Tensor:
        student = JoinerInput(encoder, predictor, STUDENT.joiner)
        return cell_divergence(student, TEACHER, TOKENS, TOKEN_LENS, BAND, collapsed=collapsed)

    inputs = [x.detach().clone().requires_grad_() for x in STUDENT[:2]]
    assert torch.autograd.gradcheck(loss, inputs)


@pytest.mark.parametrize("collapsed", [False, True])
def test_is_zero_between_equals_and_less_of_a_coarser_distribution(collapsed) -> None:
    same = cell_divergence(TEACHER, TEACHER, TOKENS, TOKEN_LENS, BAND, collapsed=collapsed)
    assert_close(same, torch.zeros_like(same))
    full = cell_divergence(STUDENT, TEACHER, TOKENS, TOKEN_LENS, BAND)
    coarse = cell_divergence(STUDENT, TEACHER, TOKENS, TOKEN_LENS, BAND, collapsed=True)
    assert (coarse < full).all()


def test_padding_changes_nothing() -> None:
    found = cell_divergence(STUDENT, TEACHER, TOKENS, TOKEN_LENS, BAND, delay=1)
    padded = [
        JoinerInput(
            torch.nn.functional.pad(side.encoder, (0, 0, 0, 3), value=1e3),
            torch.nn.functional.pad(side.predictor, (0, 0, 0, 2), value=-1e3),
            side.joiner,
        )
        for side in (STUDENT, TEACHER)
    ]
    tokens = torch.nn.functional.pad(TOKENS, (0, 2), value=1)
    assert_close(cell_divergence(*padded, tokens, TOKEN_LENS, BAND, delay=1), found)


def test_no_cells_give_zero_and_a_gradient() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    encoder = STUDENT.encoder.detach().clone().requires_grad_()
    student = JoinerInput(encoder, STUDENT.predictor, STUDENT.joiner)
    band = Band(none, none, none[:, None])
    losses = cell_divergence(student, TEACHER, TOKENS, TOKEN_LENS, band)
    losses.sum().backward()
    assert losses.tolist() == [0, 0, 0] and not encoder.grad.any()


def test_is_computed_in_float32_at_least() -> None:
    halves = [
        JoinerInput(
            side.encoder.detach().bfloat16(),
            side.predictor.detach().bfloat16(),
            Joiner(encoder_dim=d, predictor_dim=d + 1, joiner_dim=6, vocab_size=VOCAB).bfloat16(),
        )
        for side, d in ((STUDENT, 4), (TEACHER, 3))
    ]
    losses = cell_divergence(*halves, TOKENS, TOKEN_LENS, BAND, collapsed=True)
    assert losses.dtype == torch.float32 and losses.isfinite().all()


def test_other_lattices_and_delays_are_refused() -> None:
    """What would be read in their place is of other utterances."""
    shorter = TEACHER._replace(encoder=TEACHER.encoder[:, :3])
    with pytest.raises(ValueError, match=r"not \(3, 5, 5\) and \(3, 3, 5\)"):
        cell_divergence(STUDENT, shorter, TOKENS, TOKEN_LENS, BAND)
    with pytest.raises(ValueError, match="delay=-1"):
        cell_divergence(STUDENT, TEACHER, TOKENS, TOKEN_LENS, BAND, delay=-1)


def test_nothing_is_left_beside_blank_and_the_only_token() -> None:
    torch.manual_seed(2)
    joiners = [
        Joiner(encoder_dim=d, predictor_dim=d + 1, joiner_dim=6, vocab_size=2).double()
        for d in (4, 3)
    ]
    sides = [x._replace(joiner=j) for x, j in zip((STUDENT, TEACHER), joiners, strict=True)]
    tokens = torch.ones_like(TOKENS)
    coarse, full = (
        cell_divergence(*sides, tokens, TOKEN_LENS, BAND, collapsed=collapsed)
        for collapsed in (True, False)
    )
    assert_close(coarse, full)
