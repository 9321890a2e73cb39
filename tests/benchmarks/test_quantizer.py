"""`benchmarks/quantizer.py`, small: what it writes, and that it measures nothing twice."""

import json
import runpy
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def run(*options):
        monkeypatch.setattr(sys, "argv", ["quantizer", "--output", str(tmp_path), *options])
        runpy.run_path(str(BENCHMARKS / "quantizer.py"), run_name="__main__")
        return (tmp_path / "tables.md").read_text()

    return run


@pytest.mark.slow
def test_gaussian_frames_cost_more_than_their_bound(benchmark, tmp_path):
    options = ["--gaussian", "4", "--methods", "ours", "--train-frames", "3000"]
    options += ["--test-frames", "500", "--num-codebooks", "1"]
    table = benchmark(*options)
    bound = 2.0 ** (-2 * 8 / 4)
    assert f"| Shannon's bound | {bound:.4f} |" in table
    result = json.loads((tmp_path / "ours-1.json").read_text())
    assert bound < result["error"] < 2.5 * bound  # a codebook of 256 entries in 4 dimensions
    assert result["error thorough"] <= result["error fast"]
    assert f"| ours | {result['error']:.4f} |" in table
    assert (tmp_path / "rate_distortion.png").stat().st_size > 0
    (tmp_path / "ours-1.json").write_text(json.dumps(result | {"error": 0.1234}))
    assert "| ours | 0.1234 |" in benchmark(*options)
    options[1] = "5"  # other frames: not the same numbers under another name
    with pytest.raises(SystemExit, match=r"independent Gaussian, 4 dimensions.*name another"):
        benchmark(*options)


@pytest.mark.parametrize("num_codebooks", [2, 8])
def test_cached_refinement_chooses_the_same_codes(num_codebooks, monkeypatch):
    package = pytest.importorskip("multi_quantization")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from cached_refinement import cached_refinement

    torch.manual_seed(0)
    quantizer = package.Quantizer(24, 256, num_codebooks).eval()
    x = torch.randn(50, 24)
    with torch.no_grad():
        expected = quantizer.encode(x)
        with cached_refinement():
            found = quantizer.encode(x)
    assert (found == expected).float().mean() > 0.995  # ties within rounding may differ
    assert len(expected.unique(dim=0)) > 20


@pytest.mark.parametrize(("ticks", "steps"), [(1, 24), (4, 56)])
def test_training_of_multi_quantization_can_be_stopped(ticks, steps, tmp_path, monkeypatch):
    pytest.importorskip("multi_quantization")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from reference_training import train_reference

    x = torch.randn(2000, 24, generator=torch.Generator().manual_seed(0))

    def train(kept, ticks):  # 40 steps with 4 codebooks of 16 entries, 41 with 2 of 256
        ticks = iter(range(ticks))
        return train_reference(
            x, 2, (40, 40), kept, lambda: next(ticks), seed=0, timed_every=32, kept_every=8
        )

    whole, seconds = train(None, 100)
    kept = tmp_path / "kept.partial"
    with pytest.raises(StopIteration):
        train(kept, ticks)
    assert torch.load(kept, weights_only=True)["steps"] == steps
    resumed, resumed_seconds = train(kept, 100)
    assert resumed_seconds == seconds == 64
    for name, value in resumed.state_dict().items():
        assert name == "id_buf" or torch.equal(value, whole.state_dict()[name]), name


def test_local_search_in_steps_is_faisss_own_and_can_be_stopped(tmp_path, monkeypatch):
    faiss = pytest.importorskip("faiss")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from local_search import train_local_search

    random = np.random.default_rng(0)
    mixing = random.standard_normal((16, 16))
    x = (random.standard_normal((1500, 16)) @ mixing).astype(np.float32)

    def quantizer():
        found = faiss.LocalSearchQuantizer(16, 2, 6)
        found.train_iters = 8
        return found

    def error(found):
        return float(np.square(x - found.decode(found.compute_codes(x))).sum())

    theirs, whole, stopped, resumed = (quantizer() for _ in range(4))
    theirs.train(x)
    train_local_search(whole, x, None, time.perf_counter, cached_from=2)
    assert error(whole) == pytest.approx(error(theirs), rel=0.05)

    ticks = iter(range(5))  # two in the first iteration and one in others: it ends in the fifth
    with pytest.raises(StopIteration):
        train_local_search(stopped, x, tmp_path / "kept.npz", lambda: next(ticks), cached_from=2)
    seconds = train_local_search(resumed, x, tmp_path / "kept.npz", lambda: 0.0, cached_from=2)
    assert seconds == 8
    vector = faiss.vector_to_array
    np.testing.assert_array_equal(vector(resumed.codebooks), vector(whole.codebooks))


@pytest.mark.parametrize("num_codebooks", [1, 2, 5])
def test_cached_local_search_finds_the_codes_of_faiss(num_codebooks, monkeypatch):
    faiss = pytest.importorskip("faiss")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from cached_local_search import search_codes

    random = np.random.default_rng(0)
    x = random.standard_normal((2500, 24)).astype(np.float32)
    quantizer = faiss.LocalSearchQuantizer(24, num_codebooks, 6)
    quantizer.train_iters, quantizer.chunk_size = 2, 1000
    quantizer.nperts = min(quantizer.nperts, num_codebooks)
    quantizer.train(x)
    codes = random.integers(0, 64, (len(x), num_codebooks), dtype=np.int32)

    def numbers():
        found = faiss.RandomGenerator(7).mt
        found.disown()
        return found

    expected, found = codes.copy(), codes.copy()
    quantizer.icm_encode(faiss.swig_ptr(expected), faiss.swig_ptr(x), len(x), 3, numbers())
    search_codes(quantizer, found, x, 3, numbers())
    assert (found == expected).mean() > 0.999  # ties within rounding may differ
    assert (expected != codes).any(axis=0).all()
