from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, Recording, RecordingSet, SupervisionSet

from mvqkd.data.audio import Fault, probe_recording
from mvqkd.data.jsonl import read_items
from mvqkd.data.manifests import prepare_manifests, prepare_musan
from mvqkd.data.parts import ROLES, recorded_parts, stored_parts
from mvqkd.errors import UserError

MakeSpeech = Callable[..., np.ndarray]


def run(corpus: Path, data: Path, train: Sequence[str] = (), **options: Any) -> list[str]:
    """Names of the parts; roles may be among the options."""
    patterns = {"train": train} | {role: options.pop(role) for role in ROLES if role in options}
    defaults: dict[str, Any] = dict(prefix="x", min_seconds=0.3, max_seconds=3, num_jobs=2)
    parts = prepare_manifests(corpus, patterns, data, **(defaults | options))
    return [name for names in parts.values() for name in names]


def report(data: Path, part: str) -> dict[str, dict[str, list[str]]]:
    """Ids by kind."""
    table = json.loads((data / f"manifests/x_{part}.report.json").read_text())
    for kinds in (table["left_out"], table["changed"]):
        for kind, entry in kinds.items():
            assert entry["count"] == len(entry["utterances"])
            kinds[kind] = list(entry["utterances"])
    return table


def ids(data: Path, part: str, kind: str = "supervisions") -> list[str]:
    return [item["id"] for item in read_items(data / f"manifests/x_{kind}_{part}.jsonl.gz")]


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
        "the first of several channels is used": ["stereo-44k"],
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
    with pytest.raises(UserError, match=r"half-flac.*\n.*--strict"):
        run(broken, tmp_path / "out", ["train-tiny"], strict=True)
    assert not list((tmp_path / "out").glob("*"))
    run(broken, tmp_path / "out", ["train-tiny"])
    with pytest.raises(UserError, match="invalid utterances"):  # also when it was done before
        run(broken, tmp_path / "out", ["train-tiny"], strict=True)


@pytest.fixture
def overlapping(corpus: Path, tmp_path: Path) -> Path:
    """The corpus with five utterances of `train-tiny` in `dev-a` too."""
    root = tmp_path / "overlapping"
    shutil.copytree(corpus, root)
    source = next((root / "LibriSpeech/train-tiny").glob("*/7"))
    shutil.copytree(source, root / "LibriSpeech/dev-a" / source.parent.name / "7")
    return root


def test_an_id_in_two_training_parts_stays_in_the_first(overlapping: Path, tmp_path: Path) -> None:
    for output, parts in (
        (tmp_path / "train", {"train": ["train-tiny", "dev-a"]}),
        (tmp_path / "unlabelled", {"train": ["train-tiny"], "unlabelled": ["dev-a"]}),
    ):
        run(overlapping, output, **parts)
        assert len(ids(output, "train-tiny")) == 10
        assert len(ids(output, "dev-a")) == 4
        assert len(report(output, "dev-a")["left_out"]["duplicate id"]) == 5


@pytest.mark.parametrize(
    "parts",
    [
        {"train": ["train-tiny"], "dev": ["dev-a"]},
        {"train": ["train-tiny"], "test": ["dev-a"]},
        {"dev": ["train-tiny"], "test": ["dev-a"]},
        {"test": ["train-tiny"], "unlabelled": ["dev-a"]},
    ],
    ids=str,
)
def test_utterances_in_parts_of_different_roles_are_refused(
    overlapping: Path, tmp_path: Path, parts: dict[str, list[str]]
) -> None:
    with pytest.raises(UserError, match=r"5 utterances of dev-a .* is in train-tiny"):
        run(overlapping, tmp_path / "out", **parts)
    assert not (tmp_path / "out/manifests/parts.json").exists()


def test_a_part_cannot_be_trained_on_and_tested_on(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dev-a .* a training part and a dev part"):
        run(corpus, tmp_path, ["*"], dev=["dev-*"])
    with pytest.raises(UserError, match=r"dev-a .* a training part and a test part"):
        run(corpus, tmp_path, ["*"], test=["dev-*"])
    # Unlabelled: the rest.
    assert run(corpus, tmp_path, dev=["dev-*"], unlabelled=["*"]) == ["dev-a", "train-tiny"]


def test_parts_of_another_corpus_stay_out(
    corpus: Path, tmp_path: Path, make_part: Callable[..., None]
) -> None:
    """Speech of one corpus may be dev or test speech of another."""
    data = tmp_path / "data"
    run(corpus, data, ["train-*"], dev=["dev-*"])
    other = tmp_path / "other"
    make_part(other, "train-other")
    make_part(other, "dev-other")
    before = sorted(data.rglob("*"))
    with pytest.raises(UserError, match=rf"another corpus, {corpus}") as error:
        run(other, data, ["train-*"], dev=["dev-*"])
    assert "--data-dir" in str(error.value.remedy)
    assert sorted(data.rglob("*")) == before
    # The same corpus by another name is none.
    run(corpus / "LibriSpeech", data, ["train-*"], dev=["dev-*"])


def test_later_stages_have_the_parts_of_the_last_run(
    corpus: Path, tmp_path: Path, make_part: Callable[..., None]
) -> None:
    root, data = tmp_path / "corpus", tmp_path / "data"
    shutil.copytree(corpus, root)
    make_part(root, "train-further", seed=5)
    with pytest.raises(UserError, match=r"parts\.json.* is missing\n.*--stage 1"):
        recorded_parts(data, {})
    run(root, data, ["train-*"], dev=["dev-a"])
    both = {
        "train": ["train-further", "train-tiny"],
        "dev": ["dev-a"],
        "test": [],
        "unlabelled": [],
    }
    assert recorded_parts(data, {}) == both
    assert recorded_parts(data, {"train": ["train-t*"]}) == both | {"train": ["train-tiny"]}
    run(root, data, ["train-tiny"], dev=["dev-a"])  # manifests of train-further are still there
    assert recorded_parts(data, {"train": ["train-*"]})["train"] == ["train-tiny"]
    assert sorted(stored_parts(data / "manifests", "x", "supervisions")) == ["dev-a", "train-tiny"]
    with pytest.raises(UserError, match=r"no part train-further .*\n.*train-tiny.*--stage 1"):
        recorded_parts(data, {"unlabelled": ["train-further"]})
    with pytest.raises(UserError, match="a training part and a dev part"):
        recorded_parts(data, {"dev": ["train-*"]})
    run(root, data, ["train-tiny"], dev=["dev-a"], unlabelled=["*"])
    with pytest.raises(UserError, match=r"train-further .* without transcripts\n.*--train-parts"):
        recorded_parts(data, {"train": ["train-*"]})
    run(root, data, ["train-tiny"])
    with pytest.raises(UserError, match=r"no dev part .*\n.*--dev-parts"):
        recorded_parts(data, {})


def test_a_data_folder_can_be_moved_with_its_corpus(corpus: Path, tmp_path: Path) -> None:
    shutil.copytree(corpus, tmp_path / "here/corpus")
    run(tmp_path / "here/corpus", tmp_path / "here", ["train-*"])
    (tmp_path / "here").rename(tmp_path / "there")
    run(tmp_path / "there/corpus", tmp_path / "there", ["train-*"])


def test_is_done_once_and_again_when_files_change(broken: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    parts = ["train-tiny", "dev-a"]
    run(broken, output, parts)
    before = {
        path: (path.stat().st_mtime_ns, path.read_bytes())
        for path in (output / "manifests").iterdir()
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


def test_errors(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        run(tmp_path / "none", tmp_path / "out", ["*"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="neither"):
        run(tmp_path / "empty", tmp_path / "out", ["*"])
    with pytest.raises(UserError, match=r"no part test-a in .*\n.*dev-a, train-tiny"):
        run(corpus, tmp_path / "out", ["test-a"])
    with pytest.raises(UserError, match="matches test-"):
        run(corpus, tmp_path / "out", ["test-*"])
    assert run(corpus, tmp_path / "out", dev=["dev-*"], test=["test-*"]) == ["dev-a"]
    with pytest.raises(UserError, match="no valid utterance"):
        run(corpus, tmp_path / "none-left", ["dev-a"], min_seconds=100, max_seconds=200)
    assert not list((tmp_path / "none-left").glob("*"))


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
    with pytest.raises(UserError, match=r"no \*.wav\n.*run.sh --musan yes --stage 0"):
        prepare_musan(tmp_path / "out", tmp_path / "out", num_jobs=1, strict=False)


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
