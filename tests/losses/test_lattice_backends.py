"""The lattice recursion's backends: threads, forks, compilers, and what is taken without them."""

from __future__ import annotations

import importlib
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
from tests.losses.lattices import (
    check_backend_on_hard_lattices,
    random_lattice,
)

ROOT = Path(__file__).resolve().parents[2]


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
        "from tests.losses.lattices import check_backend_on_hard_lattices\n"
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


def test_a_backend_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lattice, "_available", lambda name: False)
    with pytest.raises(ValueError, match="k2 cannot be imported"):
        lattice_log_likelihood(*random_lattice(1, 3, 2), backend="k2")
