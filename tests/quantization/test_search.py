"""The search against exhaustive search, and its two implementations against each other."""

import itertools

import pytest
import torch

from mvqkd.quantization.search import pairwise_costs, search, search_torch, unary_costs

pytest.importorskip("numba")


def problem(num_codebooks=3, size=4, dim=5, frames=60, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(num_codebooks, size, dim, generator=generator)
    return torch.randn(frames, dim, generator=generator), centers


def errors(x, centers, codes):
    codes = codes.long()
    return (x - sum(c[codes[:, q]] for q, c in enumerate(centers))).square().sum(dim=1)


def found(x, centers, beam_size, sweeps, how=search):
    codes = how(
        unary_costs(x, centers), pairwise_costs(centers), beam_size=beam_size, sweeps=sweeps
    )
    return errors(x, centers, codes)


@pytest.mark.parametrize("how", [search, search_torch])
def test_a_beam_of_everything_finds_the_optimum(how):
    x, centers = problem()
    every = torch.tensor(list(itertools.product(range(4), repeat=3)))
    best = torch.stack([errors(x, centers, code.expand(len(x), 3)) for code in every]).amin(dim=0)
    torch.testing.assert_close(found(x, centers, 64, 0, how), best)
    # A beam of a few and some sweeps come near, and can never do better.
    near = found(x, centers, 4, 2, how)
    assert (near >= best - 1e-4).all()
    assert near.sum() < 1.02 * best.sum()


@pytest.mark.parametrize("how", [search, search_torch])
@pytest.mark.parametrize("beam_size", [1, 4])
def test_sweeps_never_increase_any_error(how, beam_size):
    x, centers = problem(num_codebooks=6, size=16, dim=8, frames=200)
    previous = found(x, centers, beam_size, 0, how)
    first = previous.sum()
    for sweeps in range(1, 4):
        current = found(x, centers, beam_size, sweeps, how)
        assert (current <= previous + 1e-4).all()
        previous = current
    assert previous.sum() < 0.95 * first


def test_single_sweeps_are_iterated_conditional_modes():
    x, centers = problem(num_codebooks=4, size=8)
    codes = search_torch(unary_costs(x, centers), pairwise_costs(centers), beam_size=1, sweeps=20)
    # At rest: no change of one code helps.
    before = errors(x, centers, codes)
    for q, k in itertools.product(range(4), range(8)):
        changed = codes.clone()
        changed[:, q] = k
        assert (errors(x, centers, changed) >= before - 1e-4).all()


@pytest.mark.parametrize("num_codebooks", [3, 12])
@pytest.mark.parametrize(("beam_size", "sweeps"), [(1, 0), (1, 2), (5, 0), (5, 2), (300, 1)])
def test_compiled_and_torch_find_the_same_codes(beam_size, sweeps, num_codebooks):
    x, centers = problem(num_codebooks=num_codebooks, size=256, dim=16, frames=50)
    costs = unary_costs(x, centers), pairwise_costs(centers)
    a = search(*costs, beam_size=beam_size, sweeps=sweeps)
    b = search_torch(*costs, beam_size=beam_size, sweeps=sweeps)
    assert a.dtype == b.dtype == torch.uint8
    # Rounding may decide between sums that are equal for all purposes.
    torch.testing.assert_close(errors(x, centers, a), errors(x, centers, b), rtol=1e-4, atol=1e-4)
    assert (a == b).float().mean() > 0.99


def test_threads_change_nothing():
    x, centers = problem(num_codebooks=4, size=32, dim=8, frames=333)
    costs = unary_costs(x, centers), pairwise_costs(centers)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = search(*costs, beam_size=4, sweeps=1)
        torch.set_num_threads(3)
        three = search(*costs, beam_size=4, sweeps=1)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(one, three)


def test_costs_are_the_squared_error():
    x, centers = problem()
    codes = torch.randint(4, (len(x), 3), generator=torch.Generator().manual_seed(1))
    unary, pairwise = unary_costs(x, centers), pairwise_costs(centers)
    total = x.square().sum(dim=1)
    for q in range(3):
        total = total + unary[torch.arange(len(x)), q, codes[:, q]]
        for p in range(q):
            total = total + pairwise[p, codes[:, p], q, codes[:, q]]
    torch.testing.assert_close(total, errors(x, centers, codes))
