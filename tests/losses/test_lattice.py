"""The lattice recursion against enumeration of paths, between backends, and at its edges."""

from __future__ import annotations

import importlib
import math
import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mvqkd.losses import lattice
from mvqkd.losses.lattice import lattice_log_likelihood

ROOT = Path(__file__).resolve().parents[2]
TOPOLOGIES = ["regular", "modified"]
BACKENDS = ["numba", "torch"]


def random_lattice(
    num_utterances: int, frames: int, tokens: int, dtype: torch.dtype = torch.float64, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores and lengths; the first utterance is as long as the tensors, the others random."""
    generator = torch.Generator().manual_seed(seed)
    symbol = torch.randn(num_utterances, frames, tokens, generator=generator, dtype=dtype) - 1
    blank = torch.randn(num_utterances, frames, tokens + 1, generator=generator, dtype=dtype) - 1
    token_lens = torch.randint(0, tokens + 1, (num_utterances,), generator=generator)
    lens = torch.randint(min(tokens, frames), frames + 1, (num_utterances,), generator=generator)
    token_lens[0], lens[0] = tokens, frames
    return symbol, blank, lens, token_lens


def enumerate_paths(
    symbol: Tensor, blank: Tensor, topology: str
) -> list[tuple[float, list[tuple[str, int, int]]]]:
    """Score and arcs of each path through a lattice (T, U), (T, U + 1)."""
    num_frames, num_tokens = symbol.shape
    paths = []

    def extend(t: int, s: int, score: float, arcs: list[tuple[str, int, int]]) -> None:
        if t == num_frames:
            if s == num_tokens:
                paths.append((score, arcs))
            return
        extend(t + 1, s, score + blank[t, s].item(), [*arcs, ("blank", t, s)])
        if s < num_tokens:
            after = t if topology == "regular" else t + 1
            extend(after, s + 1, score + symbol[t, s].item(), [*arcs, ("symbol", t, s)])

    extend(0, 0, 0.0, [])
    return paths


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


@pytest.fixture
def small_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several threads for lattices of any size."""
    pytest.importorskip("numba")
    monkeypatch.setattr("mvqkd.losses.lattice_numba._CELLS_WORTH_A_THREAD", 1)


@pytest.mark.usefixtures("small_shares")
def test_results_do_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = random_lattice(7, 30, 8, dtype=torch.float32)
    started: list[threading.Thread] = []

    class Counted(threading.Thread):
        def start(self) -> None:
            started.append(self)
            super().start()

    monkeypatch.setattr("mvqkd.losses.lattice_numba.threading.Thread", Counted)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append(lattice_log_likelihood(*inputs, backend="numba"))
            assert len(started) == count - 1
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_an_empty_batch_has_no_scores() -> None:
    for backend in BACKENDS:
        inputs = random_lattice(2, 5, 3, dtype=torch.float32)
        results = lattice_log_likelihood(*(x[:0] for x in inputs), backend=backend)
        assert [len(x) for x in results] == [0, 0, 0]


@pytest.mark.usefixtures("small_shares")
def test_numba_backend_may_be_called_from_several_threads_at_once() -> None:
    inputs = random_lattice(8, 60, 20, dtype=torch.float32)
    expected = lattice_log_likelihood(*inputs, backend="numba")[0]
    found: list[Tensor] = []
    threads = [
        threading.Thread(
            target=lambda: found.append(lattice_log_likelihood(*inputs, backend="numba")[0])
        )
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6 and all(torch.equal(scores, expected) for scores in found)


def _score_of_fixed_lattice() -> float:
    torch.set_num_threads(2)
    inputs = random_lattice(4, 20, 6, dtype=torch.float32)
    return lattice_log_likelihood(*inputs, backend="numba")[0].sum().item()


@pytest.mark.usefixtures("small_shares")
@pytest.mark.skipif(sys.platform != "linux", reason="forking is what data loaders do on Linux")
def test_numba_backend_works_before_and_after_a_fork() -> None:
    threads = torch.get_num_threads()
    try:
        expected = _score_of_fixed_lattice()
    finally:
        torch.set_num_threads(threads)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(_score_of_fixed_lattice).get(timeout=60) == expected


def test_compiles_without_a_cache_where_no_folder_can_be_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lattice_numba = importlib.import_module("mvqkd.losses.lattice_numba")

    def njit(**options: object) -> object:
        if options.pop("cache", False):
            raise RuntimeError("cannot cache function: no locator available")
        assert options == {"nogil": True}
        return lambda function: function

    monkeypatch.setattr(lattice_numba, "njit", njit)
    assert lattice_numba._compile(nogil=True)(max) is max


@pytest.mark.slow
def test_numba_is_imported_late_and_without_it_torch_takes_over() -> None:
    program = (
        "import sys, torch, mvqkd.losses as losses\n"
        "assert 'numba' not in sys.modules\n"
        "sys.modules['numba'] = None\n"
        "one = torch.tensor([1])\n"
        "half = torch.full((1, 1, 1), 0.5).log()\n"
        "print(losses.lattice_log_likelihood(\n"
        "    half, torch.cat([half, half], 2), one, one)[0].exp().item())\n"
        "assert 'mvqkd.losses.lattice_torch' in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert float(done.stdout) == pytest.approx(0.25)


@pytest.mark.parametrize("compiler", ["/usr/bin/gcc", None])
def test_triton_is_taken_where_a_c_compiler_is(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    compiler: str | None,
) -> None:
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(lattice.sysconfig, "get_path", lambda _: str(tmp_path))
    monkeypatch.setattr(lattice.shutil, "which", lambda _: compiler)
    monkeypatch.setattr(lattice, "_available", lambda name: name == "triton")
    lattice._triton_works.cache_clear()
    try:
        assert lattice.choose_backend("auto", "cuda") == ("triton" if compiler else "torch")
    finally:
        lattice._triton_works.cache_clear()
    assert ("needs a C compiler" in caplog.text) == (compiler is None)


@pytest.mark.slow
def test_triton_kernel_gives_the_same_under_its_interpreter() -> None:
    pytest.importorskip("triton")
    program = (
        "import torch\n"
        "from tests.losses.test_lattice import check_backend_on_hard_lattices\n"
        "check_backend_on_hard_lattices('triton')\n"
    )
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("skew", [0, 1])
def test_triton_kernel_compiles_for_a_gpu(skew: int) -> None:
    """Compiling needs no GPU; the interpreter accepts more than the compiler does."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = importlib.import_module("mvqkd.losses.lattice_triton")._forward_backward_kernel
    integers = {"lens": "*i64", "token_lens": "*i64", "skew": "constexpr", "block": "constexpr"}
    integers |= {name: "i32" for name in ("num_frames", "num_positions", "num_steps")}
    signature = {name: integers.get(name, "*fp32") for name in kernel.arg_names}
    source = ASTSource(kernel, signature, constexprs={"skew": skew, "block": 64})
    compiled = triton.compile(source, target=GPUTarget("cuda", 80, 32))
    assert compiled.asm["ptx"].count("bar.sync") >= 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_triton_kernel_gives_the_same_on_a_gpu() -> None:
    check_backend_on_hard_lattices("triton", device="cuda")


def test_k2_backend_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """With k2, or with fast_rnnt in its place, which has k2's function of the same name."""
    try:
        importlib.import_module("k2")
    except ImportError:
        fast_rnnt = pytest.importorskip("fast_rnnt", reason="neither k2 nor fast_rnnt")
        monkeypatch.setitem(sys.modules, "k2", fast_rnnt)
        monkeypatch.setattr(lattice, "_available", lambda name: True)
        # Whoever imports it after this test shall get k2 or nothing.
        monkeypatch.delitem(sys.modules, "mvqkd.losses.lattice_k2", raising=False)
    check_backend_on_hard_lattices("k2")
    monkeypatch.delitem(sys.modules, "mvqkd.losses.lattice_k2")


def check_backend_on_hard_lattices(backend: str, device: str = "cpu") -> None:
    """Different lengths, no tokens, forbidden arcs and impossible lattices, against torch."""
    # On a GPU positions beyond the 64th are other warps'.
    kinds = (
        (11, 6, torch.float64, 1e-12),
        (11, 6, torch.float32, 1e-5),
        (20, 70, torch.float64, 1e-10),
    )
    for topology in TOPOLOGIES:
        for num_frames, num_tokens, dtype, tolerance in kinds:
            symbol, blank, lens, token_lens = random_lattice(
                6, num_frames, num_tokens, dtype=dtype, seed=8
            )
            symbol[1, 2:4] = -math.inf
            blank[2, 5] = -math.inf
            token_lens[3], token_lens[4], lens[4] = 0, 5, 3
            inputs = [x.to(device) for x in (symbol, blank, lens, token_lens)]
            reference = lattice_log_likelihood(*inputs, topology=topology, backend="torch")
            found = lattice_log_likelihood(*inputs, topology=topology, backend=backend)
            assert reference[0].isneginf().any()
            for values, wanted in zip(found, reference, strict=True):
                torch.testing.assert_close(values, wanted, rtol=0, atol=tolerance)


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


def test_a_backend_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lattice, "_available", lambda name: False)
    with pytest.raises(ValueError, match="k2 cannot be imported"):
        lattice_log_likelihood(*random_lattice(1, 3, 2), backend="k2")
