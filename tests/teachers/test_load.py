from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from mvqkd.errors import UserError
from mvqkd.teachers import CTCTranscriber, load_teacher
from tests.teachers.corpus import Spectra

PLUGIN = """
import torch
from mvqkd.teachers import Embeddings

class Framer(torch.nn.Module):
    dim, num_layers, frame_rate, first_frame = 160, 1, 100.0, 0.005
    def __init__(self, gain):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(float(gain)))
    def output_lens(self, lens):
        return lens // 160
    def forward(self, waveforms, lens):
        frames = waveforms[:, : waveforms.shape[1] // 160 * 160].unflatten(1, (-1, 160))
        return Embeddings({1: self.gain * frames}, self.output_lens(lens))

def make(layers, gain="1"):
    assert layers == [1]
    return Framer(gain)

def failing(layers):
    return 1 / 0

class Breaking(Framer):
    def forward(self, waveforms, lens):
        raise KeyError("of mine")

def breaking(layers):
    return Breaking(1)

def wrong(layers):
    return torch.nn.Linear(1, 1)
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny_teacher_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tiny_teacher_plugin", raising=False)


@pytest.mark.usefixtures("plugin")
def test_any_module_can_be_plugged_in() -> None:
    teacher = load_teacher("python:tiny_teacher_plugin:make?gain=3", [1])
    wave = torch.randn(2, 480)
    output = teacher(wave, torch.tensor([480, 320]))
    assert torch.equal(output.layers[1], 3 * wave.reshape(2, 3, 160))
    assert teacher.ctc is None and not output.layers[1].requires_grad
    assert not teacher.training
    with pytest.raises(UserError, match="lacks dim, num_layers, frame_rate, first_frame"):
        load_teacher("python:tiny_teacher_plugin:wrong", [1])
    with pytest.raises(UserError, match="cannot be imported"):
        load_teacher("python:tiny_teacher_plugin:nothing", [1])


@pytest.mark.usefixtures("plugin")
def test_what_a_plugged_in_teacher_raises_is_shown_as_its_own() -> None:
    with pytest.raises(UserError, match="failed when mvqkd called it") as error:
        load_teacher("python:tiny_teacher_plugin:failing", [1])
    problem = error.value.problem
    assert "python:tiny_teacher_plugin:failing" in problem and "return 1 / 0" in problem
    assert "ZeroDivisionError" in problem and "load.py" not in problem
    teacher = load_teacher("python:tiny_teacher_plugin:breaking", [1])
    with pytest.raises(UserError, match=r"\(Breaking\) failed when mvqkd called it") as error:
        teacher(torch.randn(1, 480), torch.tensor([480]))
    assert "KeyError: 'of mine'" in error.value.problem


@pytest.mark.parametrize(
    "fault, message",
    [
        ("lens", "makes 50 frames of 16000 samples, but its output_lens says 51"),
        ("longer", "makes 50 frames of 16000 samples, but its output_lens says 49"),
        ("rows", "returns lens of 1 utterances for 2"),
        ("layer", r"returns layers \[7\], but not layer 1, which is wanted"),
        ("dim", r"layer 1 of shape \(2, 50, 11\), but its lens and dim say \(2, 50, 12\)"),
        ("frames", r"layer 1 of shape \(2, 49, 12\), but its lens and dim say \(2, 50, 12\)"),
    ],
)
def test_what_a_plugged_in_teacher_returns_is_checked(fault: str, message: str) -> None:
    teacher = load_teacher(f"python:tests.teachers.corpus:flawed?fault={fault}", [1, 2])
    named = r"python:tests\.teachers\.corpus:flawed \(Flawed\)"
    with pytest.raises(UserError, match=f"{named} .*{message}"):
        teacher(torch.randn(2, 16000), torch.tensor([16000, 9000]))


def test_a_plugged_in_teacher_may_return_more_than_is_wanted() -> None:
    uri = "python:tests.teachers.corpus:flawed?fault=more"
    wave, lens = torch.randn(2, 17000), torch.tensor([16000, 9000])  # padded further than needed
    for layers, found in (([2], [2]), (None, [1, 2, 3])):
        output = load_teacher(uri, layers)(wave, lens)
        assert list(output.layers) == found
        expected = Spectra(layers)(wave, lens)
        assert torch.equal(output.lens, expected.lens)
        assert all(torch.equal(output.layers[n], expected.layers[n]) for n in found)
    with pytest.raises(UserError, match="no layer 4"):
        load_teacher(uri, [4])


@pytest.mark.parametrize(
    "uri, message",
    [
        ("HUBERT_XLARGE", "names no teacher"),
        ("ftp:x", "names no teacher"),
        ("hf:", "names no teacher"),
        ("torchaudio:HUBERT_BASE?weights=x", "no option weights"),
        ("hf:x?silence=much", "silence=much is no number"),
    ],
)
def test_bad_uris_are_refused(uri: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_teacher(uri)


def test_greedy_ctc_merges_repetitions_and_drops_blanks() -> None:
    head = CTCTranscriber(torch.nn.Identity(), ["-", "|", "A", "B"], blank=0)
    symbols = torch.tensor([[1, 2, 2, 0, 2, 1, 1, 0, 1, 3, 3], [3, 3, 0, 3, 2, 2, 2, 2, 2, 2, 2]])
    logits = torch.nn.functional.one_hot(symbols, 4).float()
    assert head.decode(logits, torch.tensor([11, 4])) == ["AA B", "BB"]
