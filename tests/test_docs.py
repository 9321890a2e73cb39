"""Documentation that runs: the API reference and the example of a teacher (the example of a recipe
is in `tests/recipes/test_run.py`)."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path

import pytest
import torch

from mvqkd.teachers import load_teacher

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("pdoc") is None, reason="needs pdoc (extra docs)")
def test_the_reference_has_every_package(tmp_path: Path) -> None:
    command = ["bash", str(ROOT / "docs/build_api.sh"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for path in (ROOT / "mvqkd").rglob("__init__.py"):
        name = path.parent.relative_to(ROOT)
        assert (tmp_path / name).with_suffix(".html").is_file()
    page = (tmp_path / "mvqkd/recognizer.html").read_text(encoding="utf-8")
    assert "Texts of audio files" in page


def test_the_teacher_of_the_example_is_a_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs/examples/custom_teacher"))
    teacher = load_teacher("python:mfcc_teacher:load", [1, 2])
    assert (teacher.dim, teacher.frame_rate) == (40, 50.0)
    waves = 0.1 * torch.randn(2, 16000, generator=torch.Generator().manual_seed(0))
    lens = torch.tensor([16000, 9000])
    waves[1, 9000:] = 0
    together = teacher(waves, lens)
    alone = teacher(waves[1:, :9000], lens[1:])
    length = int(alone.lens[0])
    assert together.lens.tolist() == teacher.output_lens(lens).tolist() and length == 27
    for layer in (1, 2):
        assert together.layers[layer].std() > 0.1
        assert torch.allclose(together.layers[layer][1, :length], alone.layers[layer][0], atol=1e-5)
    assert load_teacher("python:mfcc_teacher:load", [2])(waves, lens).layers.keys() == {2}
