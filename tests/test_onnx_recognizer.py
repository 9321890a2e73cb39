"""`OnnxRecognizer` and its programs against `Recognizer`."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mvqkd import Recognizer
from mvqkd.__main__ import load_recognizer, main, parse
from mvqkd.errors import UserError
from mvqkd.export.targets import Target
from mvqkd.export.writing import write_graph
from mvqkd.geometry import SAMPLE_RATE
from mvqkd.models import FULL_CONTEXT, StreamingConfig
from mvqkd.onnx_recognizer import OnnxRecognizer
from mvqkd.storage.files import write_json
from tests.test_recognizer import METHODS, experiment, speech

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def export(folder: Path, *, streaming: bool) -> Path:
    """A model folder of an experiment, as far as recognizers read it."""
    model = Recognizer.load(experiment(folder, streaming=streaming)).model
    chunks = StreamingConfig(4, 8) if streaming else FULL_CONTEXT
    items = []
    for head in ("transducer", "ctc"):
        target = Target(head, streaming, chunks, epoch=1, avg=1)  # type: ignore[arg-type]
        files = target.files("float32")
        for name, graph in target.graphs(model).items():
            write_graph(graph, folder / files[name])
        items.append({"head": head, "streaming": streaming, "precision": "float32", "files": files})
    write_json(folder / "export.json", {"files": items})
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    root = tmp_path_factory.mktemp("exports")
    return {kind: export(root / str(kind), streaming=kind) for kind in (False, True)}


def whole_chunks(seconds: float) -> np.ndarray:
    """Speech that ends with a chunk of 16 frames after the first 19: what is after the end of a
    stream's last chunk, torch masks, and exported files take for silence."""
    chunks = round(seconds * 100) // 16
    return speech(seconds + 1)[: (16 * chunks + 3) * 160]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_hypotheses_are_those_of_torch(folders: dict, streaming: bool, method: str) -> None:
    exported = OnnxRecognizer.load(folders[streaming], method=method)
    recognizer = Recognizer.load(folders[streaming], method=method)
    waves = [whole_chunks(2.0), np.zeros(100, np.float32), whole_chunks(1.0)]
    found, expected = exported.recognize(waves), recognizer.recognize(waves)
    assert exported.streams == recognizer.streams == streaming
    assert exported.tokens == recognizer.tokens
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.tokens == theirs.tokens and ours.frames == theirs.frames
        assert ours.score == pytest.approx(theirs.score, abs=1e-2)
        assert ours.log_probs == pytest.approx(theirs.log_probs, abs=1e-3)
    assert len(found[0].tokens) > 1 and not found[1].tokens and found[2].tokens


@pytest.mark.parametrize("method", METHODS)
def test_sessions_are_those_of_torch(folders: dict, method: str) -> None:
    """Three together, which join and end at different times, are each what torch makes of it."""
    waves = [whole_chunks(seconds) for seconds in (2.0, 0.9, 1.4)]
    results = []
    for kind in (OnnxRecognizer, Recognizer):
        sessions = kind.load(folders[True], method=method).sessions()
        opened = [sessions.open() for _ in waves]
        for block in range(60):
            for number, (wave, session) in enumerate(zip(waves, opened, strict=True)):
                begin = (block - 7 * number) * 1000
                if 0 <= begin < len(wave):
                    session.accept_waveform(torch.from_numpy(wave[begin : begin + 1000]))
                elif begin >= len(wave):
                    session.finish()
            sessions.decode(opened)
            if block == 12:  # a segment ends in the middle of an utterance
                sessions.reset(opened[0])
        assert all(session.finished and not sessions.is_ready(session) for session in opened)
        results.append([sessions.hypotheses(session)[0] for session in opened])
    for ours, theirs in zip(*results, strict=True):
        assert ours.tokens == theirs.tokens and ours.frames == theirs.frames
        assert ours.log_probs == pytest.approx(theirs.log_probs, abs=1e-3)
        assert ours.score == pytest.approx(theirs.score, abs=1e-2)
        assert ours.tokens


def test_a_stream_ends_in_silence(folders: dict) -> None:
    """The last chunk is made up with silence, as by `recognize`."""
    recognizer = OnnxRecognizer.load(folders[True])
    wave = speech(1.93)
    stream = recognizer.stream()
    for begin in range(0, len(wave), 700):
        stream.accept(wave[begin : begin + 700])
    (expected,) = recognizer.recognize([wave])
    assert stream.finish() == recognizer.tokenizer.decode(expected.tokens) != ""


def test_the_programs_take_what_is_there(folders: dict, tmp_path: Path) -> None:
    def chosen(folder: Path, *options: str) -> type:
        return type(load_recognizer(parse(["transcribe", str(folder), "a.wav", *options])))

    exported = folders[True]
    without = tmp_path / "without"
    shutil.copytree(exported, without, ignore=shutil.ignore_patterns("*.onnx"))
    assert chosen(exported) is OnnxRecognizer
    assert chosen(exported, "--runtime", "torch") is Recognizer
    assert chosen(without) is Recognizer
    with pytest.raises(UserError, match=r"\.onnx is missing"):
        chosen(without, "--runtime", "onnxruntime")
    with pytest.raises(UserError, match="no int8 ONNX files for modified_beam_search"):
        chosen(exported, "--precision", "int8")
    with pytest.raises(UserError, match="ONNX files and --epoch at once"):
        chosen(exported, "--precision", "int8", "--epoch", "3")
    (without / "export.json").unlink()
    with pytest.raises(UserError, match=r"has no export\.json"):
        chosen(without, "--runtime", "onnxruntime")


@pytest.mark.parametrize("streaming", [False, True])
def test_transcripts_are_those_of_torch(
    folders: dict, streaming: bool, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    soundfile.write(tmp_path / "a.wav", whole_chunks(2.0), SAMPLE_RATE)
    texts = []
    for runtime in ("onnxruntime", "torch"):
        command = ["transcribe", str(folders[streaming]), str(tmp_path / "a.wav")]
        # Silence of whole chunks behind it, which both runtimes decode.
        assert main([*command, "--runtime", runtime, "--tail-padding", "32"]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != "\n"
