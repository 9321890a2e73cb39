"""Documentation that runs: the API reference and the example of a teacher (the example of a recipe
is in `tests/recipes/test_run.py`)."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

from mvqkd.features.fbank import extract
from mvqkd.teachers import load_teacher
from tests.test_recognizer import experiment, speech

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


def test_cuts_and_error_rates_of_the_example_of_a_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On segments of a long recording at 8 kHz."""
    page = (ROOT / "docs/examples/custom_recipe/README.md").read_text(encoding="utf-8")
    batch, rates = re.findall(r"```python\n(.*?)```", page, re.S)
    (tmp_path / "exp").mkdir()
    experiment(tmp_path / "exp/self", streaming=True)
    soundfile.write(tmp_path / "long.wav", speech(4.0)[::2], 8000)
    recording = Recording.from_file(tmp_path / "long.wav")
    cuts = [
        MonoCut(
            f"cut-{n}",
            start,
            seconds,
            0,
            recording=recording,
            supervisions=[SupervisionSegment(f"u{n}", recording.id, 0.0, seconds, text="THE CAT")],
        )
        for n, (start, seconds) in enumerate([(0.0, 1.0), (1.5, 2.0)])
    ]
    CutSet.from_cuts(cuts).to_file(tmp_path / "cuts.jsonl.gz")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(batch, names)
    out, lens, found = names["out"], names["lens"], names["batch"]
    assert isinstance(out, torch.Tensor) and isinstance(lens, torch.Tensor)
    assert out.shape == (2, 49, 144) and lens.tolist() == [49, 24]  # lhotse sorts by length
    longest = extract(cuts[1].resample(16000).load_audio()[0])
    assert isinstance(found, dict) and np.allclose(found["inputs"][0], longest, atol=1e-4)
    exec(rates, names)
    assert re.match(
        r"\[mine\] %WER \S+% \[\d+ / 4, .*ConfidenceInterval\(", capsys.readouterr().out
    )
