"""The lattice recursion against enumeration of paths, between backends, and at its edges."""

from __future__ import annotations

import math

import pytest
import torch

from mvqkd.losses.lattice import lattice_log_likelihood
from tests.losses.lattices import (
    TOPOLOGIES,
    enumerate_paths,
    random_lattice,
)

BACKENDS = ["numba", "torch"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_scores_and_occupancies_are_sums_over_all_paths(topology: str, backend: str) -> None:
    symbol, blank, lens, token_lens = random_lattice(4, 5, 3)
    found = lattice_log_likelihood(
        symbol, blank, lens, token_lens, topology=topology, backend=backend
    )
    for n in range(4):
        t, u = int(lens[n]), int(token_lens[n])
        paths = enumerate_paths(symbol[n, :t, :u], blank[n, :t, : u + 1], topology)
        total = math.log(sum(math.exp(score) for score, _ in paths))
        assert found[0][n].item() == pytest.approx(total, abs=1e-12)
        expected = {"symbol": torch.zeros_like(symbol[n]), "blank": torch.zeros_like(blank[n])}
        for score, arcs in paths:
            for kind, frame, position in arcs:
                expected[kind][frame, position] += math.exp(score - total)
        torch.testing.assert_close(found[1][n], expected["symbol"], rtol=0, atol=1e-12)
        torch.testing.assert_close(found[2][n], expected["blank"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_gradient_is_the_derivative(topology: str, backend: str) -> None:
    symbol, blank, lens, token_lens = random_lattice(3, 5, 3, seed=1)
    torch.autograd.gradcheck(
        lambda s, b: lattice_log_likelihood(
            s, b, lens, token_lens, topology=topology, backend=backend
        )[0],
        (symbol.requires_grad_(), blank.requires_grad_()),
    )


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-5)])
def test_numba_equals_torch_on_long_lattices(
    topology: str, dtype: torch.dtype, tolerance: float
) -> None:
    symbol, blank, lens, token_lens = random_lattice(5, 230, 60, seed=2)
    reference = lattice_log_likelihood(
        symbol, blank, lens, token_lens, topology=topology, backend="torch"
    )
    found = lattice_log_likelihood(
        symbol.to(dtype), blank.to(dtype), lens, token_lens, topology=topology, backend="numba"
    )
    torch.testing.assert_close(found[0].double(), reference[0], rtol=1e-6, atol=tolerance)
    for values, wanted in zip(found[1:], reference[1:], strict=True):
        torch.testing.assert_close(values.double(), wanted, rtol=0, atol=tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_padding_has_no_influence_and_gets_no_gradient(topology: str, backend: str) -> None:
    symbol, blank, lens, token_lens = random_lattice(6, 9, 5, seed=3)
    reference = lattice_log_likelihood(
        symbol, blank, lens, token_lens, topology=topology, backend=backend
    )
    for n in range(6):
        symbol[n, lens[n] :], symbol[n, :, token_lens[n] :] = math.nan, math.inf
        blank[n, lens[n] :], blank[n, :, token_lens[n] + 1 :] = math.nan, math.inf
    found = lattice_log_likelihood(
        symbol, blank, lens, token_lens, topology=topology, backend=backend
    )
    for values, wanted in zip(found, reference, strict=True):
        assert torch.equal(values, wanted)
    for n in range(6):
        assert not found[1][n, lens[n] :].any() and not found[1][n, :, token_lens[n] :].any()
        assert not found[2][n, lens[n] :].any() and not found[2][n, :, token_lens[n] + 1 :].any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_forbidden_arcs_are_not_taken(topology: str, backend: str) -> None:
    symbol, blank, lens, token_lens = random_lattice(1, 6, 2, dtype=torch.float32, seed=4)
    # Only one path is left: token 1 in frame 2 and token 2 in frame 4.
    symbol[:] = -math.inf
    symbol[0, 2, 0], symbol[0, 4, 1] = -0.5, -0.25
    score, symbol_occupancy, blank_occupancy = lattice_log_likelihood(
        symbol, blank, lens, token_lens, topology=topology, backend=backend
    )
    assert symbol_occupancy.nonzero().tolist() == [[0, 2, 0], [0, 4, 1]]
    positions = [0, 0, 1, 1, 2, 2] if topology == "regular" else [0, 0, None, 1, None, 2]
    arcs = [(t, s) for t, s in enumerate(positions) if s is not None]
    assert [tuple(arc) for arc in blank_occupancy[0].nonzero().tolist()] == arcs
    total = -0.75 + sum(blank[0, t, s].item() for t, s in arcs)
    assert score.item() == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_without_a_path_the_score_is_minus_infinity_and_the_gradient_zero(
    topology: str, backend: str
) -> None:
    symbol, blank, _, _ = random_lattice(3, 4, 6, dtype=torch.float32, seed=5)
    blank[1] = -math.inf
    symbol.requires_grad_(), blank.requires_grad_()
    # More tokens than frames; no blank allowed; no frames at all.
    lens, token_lens = torch.tensor([4, 4, 0]), torch.tensor([6, 2, 1])
    scores, *_ = lattice_log_likelihood(
        symbol, blank, lens, token_lens, topology=topology, backend=backend
    )
    impossible = scores.isneginf().tolist()
    assert impossible == [topology == "modified", True, True]
    scores.sum().backward()
    for grad in (symbol.grad, blank.grad):
        assert grad is not None and grad.isfinite().all()
        assert not grad[torch.tensor(impossible)].any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_without_tokens_the_score_is_the_sum_of_blanks(topology: str, backend: str) -> None:
    blank = torch.randn(2, 7, 1)
    scores, symbol_occupancy, blank_occupancy = lattice_log_likelihood(
        torch.empty(2, 7, 0),
        blank,
        torch.tensor([7, 3]),
        torch.tensor([0, 0]),
        topology=topology,
        backend=backend,
    )
    torch.testing.assert_close(scores, torch.stack([blank[0].sum(), blank[1, :3].sum()]))
    assert symbol_occupancy.shape == (2, 7, 0)
    assert blank_occupancy[:, :, 0].tolist() == [[1.0] * 7, [1.0] * 3 + [0.0] * 4]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("scale", [1e3, 1e6])
def test_extreme_scores_give_no_nan(topology: str, backend: str, scale: float) -> None:
    symbol, blank, lens, token_lens = random_lattice(4, 40, 12, dtype=torch.float32, seed=6)
    results = lattice_log_likelihood(
        symbol * scale, blank * scale, lens, token_lens, topology=topology, backend=backend
    )
    assert all(values.isfinite().all() for values in results)
    # Each frame is left once by each path.
    leaving = results[2].sum(2)
    if topology == "modified":
        leaving = leaving + results[1].sum(2)
    valid = torch.arange(40) < lens[:, None]
    torch.testing.assert_close(leaving, valid.float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_no_occupancy_of_the_numba_backend_is_denormal(topology: str) -> None:
    symbol, blank, lens, token_lens = random_lattice(2, 60, 20, dtype=torch.float32)
    _, *occupancies = lattice_log_likelihood(
        5 * symbol, 5 * blank, lens, token_lens, topology=topology, backend="numba"
    )
    _, *reference = lattice_log_likelihood(
        5 * symbol, 5 * blank, lens, token_lens, topology=topology, backend="torch"
    )
    for values, unrounded in zip(occupancies, reference, strict=True):
        assert ((unrounded > 0) & (unrounded < torch.finfo(torch.float32).tiny)).any()
        assert not ((values > 0) & (values < 1e-30)).any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_is_not_hidden(backend: str) -> None:
    symbol, blank, lens, token_lens = random_lattice(2, 9, 4, dtype=torch.float32)
    blank[0, 3, 2] = math.nan
    results = lattice_log_likelihood(symbol, blank, lens, token_lens, backend=backend)
    for values in results:
        assert values.reshape(2, -1).isnan().any(dim=1).tolist() == [True, False]


def test_an_empty_batch_has_no_scores() -> None:
    for backend in BACKENDS:
        inputs = random_lattice(2, 5, 3, dtype=torch.float32)
        results = lattice_log_likelihood(*(x[:0] for x in inputs), backend=backend)
        assert [len(x) for x in results] == [0, 0, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"symbol": torch.zeros(2, 4, 3)}, "symbol must be"),
        ({"blank": torch.zeros(2, 4, 3, dtype=torch.float64)}, "float32"),
        ({"lens": torch.tensor([4, 5])}, "lens must be between 0 and 4"),
        ({"token_lens": torch.tensor([-1, 2])}, "token_lens must be between 0 and 2"),
        ({"lens": torch.tensor([4.0, 4.0])}, "lens must be 2 integers"),
        ({"topology": "constrained"}, "topology must be"),
        ({"backend": "c"}, "backend must be"),
    ],
)
def test_bad_arguments_are_refused(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "symbol": torch.zeros(2, 4, 2),
        "blank": torch.zeros(2, 4, 3),
        "lens": torch.tensor([4, 4]),
        "token_lens": torch.tensor([2, 2]),
    }
    with pytest.raises(ValueError, match=message):
        lattice_log_likelihood(**(arguments | change))  # type: ignore[arg-type]
