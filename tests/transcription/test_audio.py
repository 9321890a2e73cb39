"""Audio of any format and rate, in blocks."""

from __future__ import annotations

import io
import os
import shutil
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mvqkd.errors import UserError
from mvqkd.transcription.audio import find_audio
from mvqkd.transcription.sources import in_real_time, microphone, pipe


def tone(rate: int, seconds: float = 1.5) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * 300 * np.arange(round(rate * seconds)) / rate)


def read(path: Path, seconds: float = 0.3) -> np.ndarray:
    (file,) = find_audio([path])
    return np.concatenate(list(file.blocks(seconds)))


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_rates_channels_and_formats(tmp_path: Path, rate: int, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, np.stack([tone(rate), 0.5 * tone(rate)], 1), rate)
    found = read(path)
    assert found.dtype == np.float32 and len(found) == 24000
    inner = slice(500, -500)
    tolerance = 0.05 if suffix == "ogg" else 3e-3
    assert np.abs(found - 0.75 * tone(16000))[inner].max() < tolerance
    assert np.allclose(found, read(path, 10.0), atol=1e-6)
    assert find_audio([path])[0].seconds() == pytest.approx(1.5)


def test_what_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # without ffmpeg
    (tmp_path / "a.m4a").write_bytes(b"no audio")
    with pytest.raises(UserError, match=r"a\.m4a cannot be transcribed: .*there is no ffmpeg"):
        read(tmp_path / "a.m4a")
    (tmp_path / "b.wav").touch()
    with pytest.raises(UserError, match=r"b\.wav cannot be transcribed: audio empty"):
        read(tmp_path / "b.wav")
    soundfile.write(tmp_path / "c.flac", tone(16000), 16000)
    (tmp_path / "c.flac").write_bytes((tmp_path / "c.flac").read_bytes()[:9000])
    with pytest.raises(UserError, match=r"c\.flac cannot be transcribed: audio truncated"):
        read(tmp_path / "c.flac")
    samples = tone(16000)
    samples[7] = np.nan
    soundfile.write(tmp_path / "d.wav", samples, 16000, subtype="FLOAT")
    with pytest.raises(UserError, match="not finite"):
        read(tmp_path / "d.wav")


FAKE = """#!{python}
import os, struct, sys
path = sys.argv[sys.argv.index("-i") + 1].removeprefix("file:")
data = (sys.stdin.buffer if path == "pipe:0" else open(path, "rb")).read()
if not data.startswith(b"LIST"):
    sys.exit("Invalid data found")
sys.stdout.buffer.write(struct.pack("<8000f", *[0.25] * 8000))
"""


def test_other_formats_are_given_to_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "ffmpeg"
    program.write_text(FAKE.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "-a.m4a").write_bytes(b"LIST of samples")
    assert read(tmp_path / "-a.m4a").tolist() == [0.25] * 8000
    (tmp_path / "b.m4a").write_bytes(b"nothing known")
    with pytest.raises(UserError, match=r"b\.m4a .*ffmpeg cannot read it: Invalid data found"):
        read(tmp_path / "b.m4a")
    assert np.concatenate(list(pipe(io.BytesIO(b"LIST and more bytes")))).tolist() == [0.25] * 8000
    with pytest.raises(UserError, match="ffmpeg cannot read standard input"):
        list(pipe(io.BytesIO(b"nothing known")))


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
def test_ffmpeg_itself(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(44100), 44100)
    os.system(f"ffmpeg -v error -i {tmp_path}/a.wav {tmp_path}/a.m4a {tmp_path}/a.webm")
    for name in ("a.m4a", "a.webm"):
        found = read(tmp_path / name)
        assert abs(len(found) - 24000) < 2000
        assert np.abs(np.fft.rfft(found[4000:20000])).argmax() == 300
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
        with pytest.raises(UserError, match="ffmpeg cannot read it"):
            read(tmp_path / name)


def test_folders_and_names(tmp_path: Path) -> None:
    for name in ("b.wav", "a/c.MP3", "a/notes.txt", ".hidden/d.wav", "a.b.flac"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_audio([tmp_path / "a" / "notes.txt", tmp_path])
    assert [str(file.relative) for file in found] == ["notes", "a/c", "a.b", "b"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no audio files"):
        find_audio([tmp_path / "empty"])
    with pytest.raises(UserError, match="missing"):
        find_audio([tmp_path / "none.wav"])


@pytest.mark.parametrize(
    ("subtype", "form"),
    [
        ("PCM_16", "WAV"),
        ("FLOAT", "WAV"),
        ("PCM_16", "WAVEX"),
        ("PCM_32", "WAV"),
        ("DOUBLE", "WAV"),
    ],
)
def test_wav_from_a_pipe(subtype: str, form: str) -> None:
    stream = io.BytesIO()
    both = np.stack([tone(8000), 0.5 * tone(8000)], 1)
    soundfile.write(stream, both, 8000, subtype=subtype, format=form)
    stream.seek(0)
    found = np.concatenate(list(pipe(stream)))
    assert len(found) == 24000
    assert np.abs(found - 0.75 * tone(16000))[500:-500].max() < 3e-3


def test_samples_from_a_pipe() -> None:
    data = (tone(16000) * 32768).astype("<i2").tobytes()
    blocks = list(pipe(io.BytesIO(data), 16000))
    assert len(blocks) > 10
    assert np.abs(np.concatenate(blocks) - tone(16000)).max() < 1e-4
    header = b"RIFF" + struct.pack("<I", 0xFFFFFFFF) + b"WAVE"
    with pytest.raises(UserError, match="ends within a WAV header"):
        list(pipe(io.BytesIO(header)))
    law = b"fmt " + struct.pack("<IHHIIHH", 16, 7, 1, 8000, 8000, 1, 8) + b"data" + bytes(4)
    with pytest.raises(UserError, match="WAV of a kind"):
        list(pipe(io.BytesIO(header + law)))


def test_a_file_plays_in_real_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("time.sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    times = []
    parts = []
    for block in in_real_time([np.arange(4000, dtype=np.float32), np.zeros(100, np.float32)]):
        times.append(now[0] - 100)
        parts.append(block)
    assert times == pytest.approx([0.1, 0.2, 0.25, 0.25625])
    assert np.concatenate(parts)[:4000].tolist() == list(range(4000))


def test_no_microphone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(UserError, match=r"(?s)microphone cannot .*pip install sounddevice"):
        next(microphone())
