"""`mvqkd transcribe` from its command line."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from mvqkd import Recognizer
from mvqkd.__main__ import main, parse
from tests.test_recognizer import experiment, speech


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("experiments")
    return {
        "full": str(experiment(root / "full")),
        "streaming": str(experiment(root / "streaming", streaming=True)),
    }


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    folder = tmp_path / "audio"
    folder.mkdir()
    for name, seconds in (("a", 2.0), ("b", 1.3), ("c", 3.1)):
        soundfile.write(folder / f"{name}.flac", speech(seconds), 16000)
    return folder


@pytest.mark.parametrize("kind", ["full", "streaming"])
@pytest.mark.parametrize("method", ["greedy_search", "modified_beam_search"])
def test_texts_are_the_recognizers(
    folders: dict, audio: Path, kind: str, method: str, capsys: pytest.CaptureFixture
) -> None:
    command = ["transcribe", folders[kind], str(audio), "--method", method, "--tail-padding", "0"]
    assert main(command) == 0
    out, err = capsys.readouterr()
    recognizer = Recognizer.load(folders[kind], method=method)
    files = sorted(audio.iterdir())
    expected = dict(zip(map(str, files), recognizer.transcribe(files), strict=True))
    assert dict(line.split("\t") for line in out.splitlines()) == expected
    assert all(expected.values()) and "3 files, 6.4 s of audio" in err and "real-time" in err


def test_files_of_transcripts(folders: dict, audio: Path, tmp_path: Path) -> None:
    soundfile.write(audio / "a.wav", speech(1.0), 44100)
    out = str(tmp_path / "out")
    command = ["transcribe", folders["streaming"], str(audio), "-f", "text,json,srt,vtt", "-o", out]
    assert main(command) == 0
    names = {path.name for path in Path(out).iterdir()}
    suffixes = ("txt", "json", "srt", "vtt")
    assert names == {f"{n}.{s}" for n in ("a.flac", "a.wav", "b", "c") for s in suffixes}
    value = json.loads((tmp_path / "out/c.json").read_text())
    words = [word for segment in value["segments"] for word in segment["words"]]
    starts = [word["start"] for word in words]
    assert starts == sorted(starts) and value["duration"] == 3.1
    assert all(0 < word["confidence"] <= 1 and word["start"] < word["end"] for word in words)
    assert value["text"] == " ".join((tmp_path / "out/c.txt").read_text().split()) != ""


def test_standard_input(
    folders: dict, audio: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    command = ["transcribe", folders["streaming"], "-"]
    texts = []
    for arguments, data in (
        ([], (audio / "a.flac").read_bytes()),
        (["--stream", "--pcm", "16000"], (speech() * 32768).astype("<i2").tobytes()),
    ):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
        assert main([*command, "--method", "greedy_search", *arguments]) == 0
        lines = capsys.readouterr().out.splitlines()
        if arguments:  # lines of words, and of segments
            lines = [line.partition("] ")[2] for line in lines if line.startswith("[")]
        texts.append(lines)
    assert texts[0] == texts[1] != []


@pytest.mark.parametrize("kind", ["full", "streaming"])
def test_silence_and_faults(
    folders: dict, audio: Path, kind: str, capsys: pytest.CaptureFixture
) -> None:
    soundfile.write(audio / "d.wav", np.zeros(48000), 16000)
    soundfile.write(audio / "e.wav", speech(0.03), 16000)
    soundfile.write(audio / "f.wav", np.zeros(0), 16000)
    soundfile.write(audio / "g.wav", speech(), 16000)
    (audio / "g.wav").write_bytes((audio / "g.wav").read_bytes()[:30000])
    (audio / "h.wav").write_text("no audio at all")
    assert main(["transcribe", folders[kind], str(audio), "--tail-padding", "0"]) == 1
    out, err = capsys.readouterr()
    found = dict(line.split("\t") for line in out.splitlines())
    assert [Path(name).name for name in found] == ["a.flac", "b.flac", "c.flac", "d.wav", "e.wav"]
    assert found[str(audio / "e.wav")] == ""
    if kind == "full":
        assert found[str(audio / "d.wav")] == ""
    for name, reason in (
        ("f", "audio empty"),
        ("g", "audio truncated"),
        ("h", "(libsndfile|ffmpeg)"),
    ):
        assert re.search(rf"{name}\.wav cannot be transcribed: {reason}", err)
    assert "8 files, 3 not transcribed" in err


def test_mistakes_are_told(
    folders: dict, audio: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file, other = str(audio / "a.flac"), str(tmp_path / "a.flac")
    shutil.copy(file, other)
    for arguments, words in (
        ([str(tmp_path / "none"), file], "none is missing"),
        ([str(audio), file], "pretrained.pt"),
        ([folders["full"]], "nothing to transcribe"),
        ([folders["full"], "none.wav"], "none.wav is missing"),
        ([folders["full"], file, "-f", "doc"], "no format doc"),
        ([folders["full"], file, "-f", "json,srt"], "need a folder"),
        ([folders["full"], file, file, "-f", "srt"], "need a folder"),
        ([folders["full"], file, other, "-o", str(tmp_path)], "the same name"),
        ([folders["full"], file, "--stream"], "attends to whole utterances"),
        ([folders["full"], "--mic", "0", file], "at once"),
        ([folders["full"], file, "--pcm", "16000"], "standard input"),
    ):
        assert main(["transcribe", *arguments]) == 1, arguments
        assert words in capsys.readouterr().err


def test_options_may_stand_anywhere() -> None:
    options = parse(["transcribe", "exp", "--stream", "a.wav", "--pause", "1", "-", "b"])
    assert (options.audio, options.stream, options.pause) == (["a.wav", "-", "b"], True, 1.0)
    for wrong in (["transcribe", "exp", "a.wav", "--none"], ["serve", "exp", "a.wav"]):
        with pytest.raises(SystemExit, match="2"):
            parse(wrong)


MEMORY = """
import resource, sys
from mvqkd.__main__ import main
main(["transcribe", sys.argv[1], sys.argv[2], "--method", "greedy_search"])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
main(["transcribe", sys.argv[1], sys.argv[3], "--method", "greedy_search"])
print("grown", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["full", "streaming"])
def test_hours_in_bounded_memory(folders: dict, tmp_path: Path, kind: str) -> None:
    """Half an hour, of which the samples alone would take 115 MB."""
    part = np.concatenate([speech(20.0), np.zeros(5 * 16000, np.float32)])
    for name, repeats in (("short", 12), ("long", 72)):
        with soundfile.SoundFile(tmp_path / f"{name}.flac", "w", 16000, 1) as file:
            for _ in range(repeats):
                file.write(part)
    files = [str(tmp_path / f"{name}.flac") for name in ("short", "long")]
    command = [sys.executable, "-c", MEMORY, folders[kind], *files]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1800.0 s of audio" in done.stderr
    assert int(done.stdout.split("grown")[1]) < 80_000  # kB
