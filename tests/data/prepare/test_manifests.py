from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from lhotse import RecordingSet, SupervisionSet

from mvqkd.errors import UserError
from tests.data.prepare.manifests import ids, report, run

MakeSpeech = Callable[..., np.ndarray]


@pytest.fixture
def broken(corpus: Path, tmp_path: Path, make_speech: MakeSpeech) -> Path:
    """The corpus with one of every fault in `train-tiny`, beside its ten sound utterances."""
    root = tmp_path / "broken"
    shutil.copytree(corpus, root)
    folder = root / "LibriSpeech/train-tiny/900/1"
    folder.mkdir(parents=True)
    lines = []

    def add(name: str, text: str | None = "A CAT", seconds: float = 1.0, **options: Any) -> Path:
        rate, channels = options.get("rate", 16000), options.get("channels", 1)
        samples = make_speech(seconds, 1, rate)
        if channels > 1:
            samples = np.stack([samples] + [0 * samples] * (channels - 1), 1)
        path = folder / f"{name}{options.get('suffix', '.flac')}"
        if path.suffix == ".opus":
            soundfile.write(path, samples, rate, format="OGG", subtype="OPUS")
        else:
            soundfile.write(path, samples, rate)
        if text is not None:
            lines.append(f"{name} {text}\n")
        return path

    def halve(path: Path) -> None:
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])

    add("no-audio").unlink()
    add("zero-bytes").write_bytes(b"")
    add("zero-samples", seconds=0.0, suffix=".wav")
    add("not-audio").write_bytes(b"these are no samples" * 100)
    halve(add("half-flac"))
    halve(add("half-wav", suffix=".wav"))
    halve(add("half-opus", seconds=2.9, suffix=".opus"))
    flipped = add("flipped")
    data = bytearray(flipped.read_bytes())
    data[len(data) // 2] ^= 0xFF
    flipped.write_bytes(data)
    soundfile.write(
        folder / "infinite.wav", np.full(16000, np.inf, np.float32), 16000, subtype="FLOAT"
    )
    lines.append("infinite A CAT\n")
    add("no-text", text=None)
    add("empty-text", text="")
    add("short", seconds=0.29)
    add("long", seconds=3.01)
    add("rate-8k", rate=8000)
    add("stereo-44k", rate=44100, channels=2, suffix=".wav")
    add("twice")
    add("twice", suffix=".wav")
    (folder / "900-1.trans.txt").write_text("".join(lines))
    return root


def test_sound_corpus(corpus: Path, tmp_path: Path) -> None:
    assert run(corpus, tmp_path, ["train-*", "dev-a"]) == ["train-tiny", "dev-a"]
    assert len(ids(tmp_path, "train-tiny")) == 10
    assert ids(tmp_path, "train-tiny") == sorted(ids(tmp_path, "train-tiny"))
    table = report(tmp_path, "train-tiny")
    assert table["left_out"] == table["changed"] == {}
    recordings = RecordingSet.from_file(
        tmp_path / "manifests/x_recordings_dev-a.jsonl.gz"
    ).to_eager()
    supervisions = SupervisionSet.from_file(tmp_path / "manifests/x_supervisions_dev-a.jsonl.gz")
    for supervision in supervisions:
        name = supervision.id
        speaker, chapter, _ = name.split("-")
        folder = corpus / "LibriSpeech/dev-a" / speaker / chapter
        lines = (folder / f"{speaker}-{chapter}.trans.txt").read_text().splitlines()
        assert f"{name} {supervision.text}" in lines
        assert supervision.speaker == speaker
        samples, _ = soundfile.read(folder / f"{name}.flac", dtype="float32")
        np.testing.assert_array_equal(recordings[name].load_audio()[0], samples)
        assert supervision.duration == recordings[name].duration == len(samples) / 16000


def test_every_fault_is_reported_by_id(broken: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run(broken, output, ["train-tiny"])
    table = report(output, "train-tiny")
    assert table["left_out"] == {
        "audio missing": ["no-audio"],
        "audio empty": ["zero-bytes", "zero-samples"],
        "audio unreadable": ["flipped", "not-audio"],
        "audio truncated": ["half-flac", "half-opus", "half-wav"],
        "audio not finite": ["infinite"],
        "transcript missing": ["no-text"],
        "transcript empty": ["empty-text"],
        "too short": ["short"],
        "too long": ["long"],
        "duplicate id": ["twice"],
    }
    assert table["changed"] == {
        "resampled to 16000 Hz": ["rate-8k", "stereo-44k"],
        "one of several channels is used": ["stereo-44k"],
    }
    kept = ids(output, "train-tiny")
    assert len(kept) == 13
    assert {"rate-8k", "stereo-44k", "twice"} <= set(kept)
    assert ids(output, "train-tiny", "recordings") == kept
    recordings = RecordingSet.from_file(
        output / "manifests/x_recordings_train-tiny.jsonl.gz"
    ).to_eager()
    for name in ("rate-8k", "stereo-44k"):
        assert recordings[name].sampling_rate == 16000
        assert recordings[name].load_audio().shape[1] == 16000


def test_strict_writes_nothing(broken: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"half-flac.*\n.*leave them out"):
        run(broken, tmp_path / "out", ["train-tiny"], strict=True)
    assert not list((tmp_path / "out").glob("*"))
    run(broken, tmp_path / "out", ["train-tiny"])
    with pytest.raises(UserError, match="invalid utterances"):  # also when it was done before
        run(broken, tmp_path / "out", ["train-tiny"], strict=True)


def test_is_done_once_and_again_when_files_change(broken: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    parts = ["train-tiny", "dev-a"]
    run(broken, output, parts)
    before = {
        path: (path.stat().st_mtime_ns, path.read_bytes())
        for path in (output / "data.json", *(output / "manifests").iterdir())
    }
    run(broken, output, parts)
    assert before == {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in before}
    # The transcripts of a mended utterance.
    with open(broken / "LibriSpeech/train-tiny/900/1/900-1.trans.txt", "a") as file:
        file.write("no-text FOUND IT\n")
    run(broken, output, parts)
    changed = {path.name for path, (_, data) in before.items() if path.read_bytes() != data}
    assert changed == {
        "x_recordings_train-tiny.jsonl.gz",
        "x_supervisions_train-tiny.jsonl.gz",
        "x_train-tiny.report.json",
    }
    assert "no-text" in ids(output, "train-tiny")


def test_same_bytes_whatever_the_number_of_jobs(broken: Path, tmp_path: Path) -> None:
    outputs = []
    for jobs in (1, 4):
        run(broken, tmp_path / str(jobs), ["*"], num_jobs=jobs)
        files = sorted((tmp_path / str(jobs) / "manifests").iterdir())
        outputs.append([(path.name, path.read_bytes()) for path in files])
    assert outputs[0] == outputs[1]


def test_errors(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        run(tmp_path / "none", tmp_path / "out", ["*"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="neither"):
        run(tmp_path / "empty", tmp_path / "out", ["*"])
    with pytest.raises(UserError, match=r"no split test-a in .*\n.*dev-a, train-tiny"):
        run(corpus, tmp_path / "out", ["test-a"])
    with pytest.raises(UserError, match="matches test-"):
        run(corpus, tmp_path / "out", ["test-*"])
    assert run(corpus, tmp_path / "out", dev=["dev-*"], test=["test-*"]) == ["dev-a"]
    with pytest.raises(UserError, match="no valid utterance"):
        run(corpus, tmp_path / "none-left", ["dev-a"], min_seconds=100, max_seconds=200)
    assert not list((tmp_path / "none-left").glob("*"))
