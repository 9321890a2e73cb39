"""Manifests of corpora in other forms than LibriSpeech's: lhotse manifests, MUSAN, bare audio."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, Recording, RecordingSet, SupervisionSet

from mvqkd.data.prepare.audio_files import Fault, probe_recording
from mvqkd.data.prepare.noise_cuts import noise_cuts
from mvqkd.data.prepare.noises import prepare_musan
from mvqkd.errors import UserError
from mvqkd.storage.jsonl import read_items
from tests.data.prepare.manifests import ids, report, run

MakeSpeech = Callable[..., np.ndarray]


def test_lhotse_manifests(corpus: Path, tmp_path: Path) -> None:
    run(corpus, tmp_path / "tree", ["dev-a"])
    run(tmp_path / "tree/manifests", tmp_path / "again", ["dev-a"])
    for kind in ("recordings", "supervisions"):
        name = f"manifests/x_{kind}_dev-a.jsonl.gz"
        first, second = (list(read_items(tmp_path / f / name)) for f in ("tree", "again"))
        assert first == second


@pytest.mark.parametrize("as_cuts", [False, True])
def test_segments_of_long_recordings(
    tmp_path: Path, make_speech: MakeSpeech, as_cuts: bool
) -> None:
    """Two utterances in one recording, a third beyond its end, and what has no audio or text."""
    folder = tmp_path / "manifests"
    folder.mkdir()
    soundfile.write(tmp_path / "talk.wav", make_speech(5, 1), 16000)
    recording = {
        "id": "talk",
        "sources": [{"type": "file", "channels": [0], "source": str(tmp_path / "talk.wav")}],
        "sampling_rate": 16000,
        "num_samples": 80000,
        "duration": 5.0,
    }
    segments: list[dict[str, Any]] = [
        {"id": "talk-a", "start": 0.5, "duration": 1.0, "text": "A"},
        {"id": "talk-b", "start": 2.5, "duration": 1.5, "text": "B"},
        {"id": "talk-c", "start": 4.5, "duration": 1.5, "text": "C"},
        {"id": "talk-d", "start": 1.0, "duration": 1.0},
    ]
    segments = [{"recording_id": "talk", "channel": 0} | segment for segment in segments]

    def write(name: str, items: list[dict[str, Any]]) -> None:
        (folder / name).write_text("".join(json.dumps(item) + "\n" for item in items))

    if as_cuts:
        cuts = [
            {
                "id": f"generated-{n}",
                "type": "MonoCut",
                "channel": 0,
                "start": segment["start"] - 0.25,
                "duration": segment["duration"] + 0.5,
                "recording": recording,
                "supervisions": [segment | {"start": 0.25}],
            }
            for n, segment in enumerate(segments)
        ]
        write("talks_cuts_train.jsonl", cuts)
        assert len(CutSet.from_file(folder / "talks_cuts_train.jsonl")) == 4
    else:
        write("talks_recordings_train.jsonl", [recording])
        write("talks_supervisions_train.jsonl", segments)
    run(folder, tmp_path / "out", ["train"])
    assert ids(tmp_path / "out", "train") == ["talk-a", "talk-b"]
    kept = SupervisionSet.from_file(tmp_path / "out/manifests/x_supervisions_train.jsonl.gz")
    assert [(s.start, s.duration) for s in kept] == [(0.5, 1.0), (2.5, 1.5)]
    assert report(tmp_path / "out", "train")["left_out"] == {
        "beyond the end of its recording": ["talk-c"],
        "transcript empty": ["talk-d"],
    }


def test_two_corpora_in_one_folder_are_not_one(corpus: Path, tmp_path: Path) -> None:
    run(corpus, tmp_path, ["train-tiny"])
    shutil.copy(
        tmp_path / "manifests/x_recordings_train-tiny.jsonl.gz",
        tmp_path / "manifests/y_recordings_train-tiny.jsonl.gz",
    )
    with pytest.raises(UserError, match=r"two manifests of recordings .*: x_rec.* and y_rec"):
        run(tmp_path / "manifests", tmp_path / "again", ["train-tiny"])


def test_recordings_not_as_their_manifest_says(corpus: Path, tmp_path: Path) -> None:
    run(corpus, tmp_path / "tree", ["dev-a"])
    path = tmp_path / "tree/manifests/x_recordings_dev-a.jsonl.gz"
    items = list(read_items(path))
    items[0]["num_samples"] += 1000
    items[0]["duration"] = items[0]["num_samples"] / 16000
    items[1]["sources"][0]["source"] += ".gone"
    path.unlink()
    path.with_suffix("").write_text("".join(json.dumps(item) + "\n" for item in items))
    run(path.parent, tmp_path / "out", ["dev-a"])
    assert report(tmp_path / "out", "dev-a")["left_out"] == {
        "audio not as in the manifest": [items[0]["id"]],
        "audio missing": [items[1]["id"]],
    }


def test_audio_behind_a_transform_is_not_filled_up(tmp_path: Path, make_speech: MakeSpeech) -> None:
    path, samples = tmp_path / "talk.wav", make_speech(1.0, 1)
    soundfile.write(path, samples, 16000, subtype="FLOAT")
    recording = Recording.from_file(path).perturb_speed(1.1)
    assert probe_recording(recording) is recording
    soundfile.write(path, samples[:12000], 16000, subtype="FLOAT")  # 0.25 s are gone
    with pytest.raises(Fault):
        probe_recording(recording)


def test_musan(tmp_path: Path, make_speech: MakeSpeech) -> None:
    for part in ("music", "speech", "noise"):
        folder = tmp_path / "musan" / part / "source"
        folder.mkdir(parents=True)
        soundfile.write(folder / f"{part}-1.wav", make_speech(2, 1), 16000)
    (tmp_path / "musan/noise/source/noise-2.wav").write_bytes(b"")
    prepare_musan(tmp_path, tmp_path / "out", num_jobs=1, strict=False)
    found = {
        item["id"]
        for path in (tmp_path / "out").glob("musan_recordings_*.jsonl.gz")
        for item in read_items(path)
    }
    assert found == {"music-1", "speech-1", "noise-1"}
    with pytest.raises(UserError, match=r"has no audio\n.*folder that has MUSAN"):
        prepare_musan(tmp_path / "out", tmp_path / "out", num_jobs=1, strict=False)


def test_noises_of_equal_names(tmp_path: Path) -> None:
    """Each is used, links and other suffixes too, and their windows have ids of their own."""
    for kind, number in (("music", 1), ("speech", 2), ("noise", 3)):
        for n, folder in enumerate(("a", "b")):
            home = tmp_path / "noises" / kind / folder
            home.mkdir(parents=True)
            value = number / 10 + n / 100
            soundfile.write(home / "0001.WAV", np.full(16000, value), 16000, format="WAV")
    soundfile.write(tmp_path / "own.flac", np.full(16000, 0.4), 16000)
    (tmp_path / "noises/noise/own.flac").symlink_to(tmp_path / "own.flac")
    prepare_musan(tmp_path / "noises", tmp_path / "out", num_jobs=1, strict=True)
    cuts = noise_cuts(tmp_path / "out")
    found = {cut.id: round(float(cut.load_audio()[0, 0]), 2) for cut in cuts}
    assert found == {
        "music-a-0001.WAV-0": 0.1,
        "music-b-0001.WAV-0": 0.11,
        "noise-a-0001.WAV-0": 0.3,
        "noise-b-0001.WAV-0": 0.31,
        "own-0": 0.4,
        "speech-a-0001.WAV-0": 0.2,
        "speech-b-0001.WAV-0": 0.21,
    }


def test_parts_without_transcripts(corpus: Path, tmp_path: Path, make_speech: MakeSpeech) -> None:
    """Audio at any depth of a tree, and recordings or cuts without supervisions."""
    root = tmp_path / "tree"
    shutil.copytree(corpus, root)
    for name in ("radio/a", "radio/deep/er/b"):
        path = root / "LibriSpeech" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, make_speech(1.0, 1, 16000), 16000)
    output = tmp_path / "out"
    assert run(root, output, dev=["dev-*"], unlabelled=["radio", "dev-*"]) == ["dev-a", "radio"]
    assert ids(output, "radio") == ["a", "b"]
    texts = [
        item["text"] for item in read_items(output / "manifests/x_supervisions_radio.jsonl.gz")
    ]
    assert texts == ["", ""]

    folder = tmp_path / "manifests"
    folder.mkdir()
    recordings = RecordingSet.from_file(output / "manifests/x_recordings_radio.jsonl.gz")
    recordings.to_file(folder / "x_recordings_alone.jsonl.gz")
    cuts = CutSet.from_manifests(recordings=recordings)
    CutSet.from_cuts(cut.truncate(offset=0.2, duration=0.5) for cut in cuts).to_file(
        folder / "x_cuts_pieces.jsonl.gz"
    )
    output = tmp_path / "from-manifests"
    run(folder, output, unlabelled=["alone", "pieces"])
    assert ids(output, "alone") == ["a", "b"]
    pieces = list(read_items(output / "manifests/x_supervisions_pieces.jsonl.gz"))
    assert [(item["start"], item["duration"]) for item in pieces] == [(0.2, 0.5)] * 2
    with pytest.raises(UserError):  # the same part with transcripts has no valid utterance
        run(root, tmp_path / "other", ["radio"])
