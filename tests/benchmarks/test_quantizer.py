"""`benchmarks/quantizer.py`, small: what it writes, and that it measures nothing twice."""

import json
import runpy
import sys
from pathlib import Path

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
