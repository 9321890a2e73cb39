"""Items of lhotse manifests as they are found: equal ids, other channels, odd numbers, paths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, Recording, RecordingSet, SupervisionSegment, SupervisionSet

from mvqkd.errors import UserError
from mvqkd.storage.jsonl import read_items
from tests.data.prepare.manifests import ids, report, run, values

NAN = float("nan")


def audio(path: Path, *values: float, seconds: float = 1.0) -> str:
    """Write audio of a constant value on each channel; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.tile(np.array(values), (round(seconds * 16000), 1)), 16000)
    return str(path)


def recording(name: Any, path: str, **fields: Any) -> dict[str, Any]:
    return {
        "id": name,
        "sources": [{"type": "file", "channels": [0], "source": path}],
        "sampling_rate": 16000,
        "num_samples": 16000,
        "duration": 1.0,
        "channel_ids": [0],
    } | fields


def stereo(name: str, path: str) -> dict[str, Any]:
    sources = [{"type": "file", "channels": [0, 1], "source": path}]
    return recording(name, path, sources=sources, channel_ids=[0, 1])


def segment(name: Any, recording: Any, **fields: Any) -> dict[str, Any]:
    defaults = {"start": 0.0, "duration": 1.0, "channel": 0, "text": f"TEXT OF {name}"}
    return {"id": name, "recording_id": recording} | defaults | fields


def cut(name: str, recording: dict[str, Any], *supervisions: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": name,
        "type": "MonoCut",
        "start": 0.0,
        "duration": 1.0,
        "channel": 0,
        "recording": recording,
        "supervisions": list(supervisions),
    }


def write(path: Path, *items: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(item) + "\n" for item in items))


def texts(data: Path, split: str = "train") -> dict[str, str]:
    path = data / f"manifests/x_supervisions_{split}.jsonl.gz"
    return {item["id"]: item["text"] for item in read_items(path)}


def test_recordings_of_one_name_keep_their_own_audio(tmp_path: Path) -> None:
    """lhotse names recordings after their files."""
    paths = [audio(tmp_path / f"{name}/0001.wav", v) for name, v in (("a", 0.1), ("b", 0.2))]
    third = audio(tmp_path / "c/other.wav", 0.3)
    write(
        tmp_path / "in/cuts_train.jsonl",
        cut("c1", recording("0001", paths[0]), segment("u1", "0001")),
        cut("c2", recording("0001", paths[1]), segment("u2", "0001")),
        cut("c3", recording("0001-2", third), segment("u3", "0001-2")),
        cut("c4", recording("0001", paths[0]), segment("u4", "0001", duration=0.5)),
    )
    run(tmp_path / "in", tmp_path / "out", ["train"])
    assert values(tmp_path / "out") == {"u1": 0.1, "u2": 0.2, "u3": 0.3, "u4": 0.1}
    assert len(ids(tmp_path / "out", "train", "recordings")) == 3

    write(
        tmp_path / "two/recordings_train.jsonl",
        *(recording("0001", path) for path in paths),
    )
    write(tmp_path / "two/supervisions_train.jsonl", segment("u1", "0001"))
    with pytest.raises(UserError, match="has 0001 twice"):
        run(tmp_path / "two", tmp_path / "other", ["train"])


def test_a_cut_is_read_on_its_own_channel(tmp_path: Path) -> None:
    path = audio(tmp_path / "two.wav", 0.1, 0.2)
    write(
        tmp_path / "in/cuts_train.jsonl",
        cut("c0", stereo("two", path), segment("u0", "two", channel=1)),
        cut("c1", stereo("two", path), segment("u1", "two", channel=0)) | {"channel": 1},
    )
    run(tmp_path / "in", tmp_path / "out", ["train"])
    assert values(tmp_path / "out") == {"u0": 0.1, "u1": 0.2}
    table = json.loads((tmp_path / "out/manifests/x_train.report.json").read_text())
    assert table["changed"]["one of several channels is used"]["utterances"] == {
        "u0": "channel 0 of [0, 1]",
        "u1": "channel 1 of [0, 1]",
    }


def test_a_cut_of_all_channels_is_read_on_those_of_its_supervisions(tmp_path: Path) -> None:
    """`CutSet.from_manifests` makes such cuts of recordings with several channels."""
    path = audio(tmp_path / "two.wav", 0.1, 0.2)
    recordings = RecordingSet.from_items([Recording.from_dict(stereo("two", path))])
    both = [segment(f"u{n}", "two", channel=n, duration=0.5) for n in (0, 1)]
    spoken = SupervisionSet.from_items(SupervisionSegment.from_dict(item) for item in both)
    (both_channels,) = CutSet.from_manifests(recordings=recordings, supervisions=spoken)
    silent = both_channels.drop_supervisions().with_id("silent")
    padded = both_channels.pad(duration=2.0).with_id("padded")
    write(tmp_path / "in/cuts_train.jsonl", both_channels.to_dict(), padded.to_dict())
    write(tmp_path / "in/cuts_more.jsonl", silent.to_dict())
    run(tmp_path / "in", tmp_path / "out", ["train"], unlabelled=["more"])
    assert values(tmp_path / "out") == {"u0": 0.1, "u1": 0.2}
    assert report(tmp_path / "out", "train")["left_out"] == {
        "cut without a recording, or of several": ["padded"]
    }
    assert ids(tmp_path / "out", "more") == ["silent"]


def test_channels_of_supervisions(tmp_path: Path) -> None:
    """Those that count from 1 mean the only one; of several, none that is not there."""
    two = stereo("two", audio(tmp_path / "two.wav", 0.1, 0.2))
    write(
        tmp_path / "in/recordings_train.jsonl",
        two,
        recording("one", audio(tmp_path / "one.wav", 0.3)),
    )
    write(
        tmp_path / "in/supervisions_train.jsonl",
        segment("a", "two", channel=1),
        segment("b", "two", channel=2),
        segment("c", "one", channel=1),
        segment("d", "two", channel=[1, 0]),
        segment("e", "two", channel="1"),
    )
    run(tmp_path / "in", tmp_path / "out", ["train"])
    assert values(tmp_path / "out") == {"a": 0.2, "c": 0.3, "d": 0.2, "e": 0.2}
    table = report(tmp_path / "out", "train")
    assert table["left_out"] == {"no such channel": ["b"]}
    assert table["changed"]["the only channel is used"] == ["c"]


def test_numbers_and_texts_of_other_types(tmp_path: Path) -> None:
    path = audio(tmp_path / "x.wav", 0.1)
    write(
        tmp_path / "in/recordings_train.jsonl",
        recording(7, path),
        recording("nan", path, duration=NAN),
        recording("text", path, num_samples="16000", sampling_rate="16000", duration="1"),
        recording("none", path, num_samples=None),
    )
    write(
        tmp_path / "in/supervisions_train.jsonl",
        segment("number", 7, text=2024),
        segment(12, "7", text="TWELVE"),
        segment("float", "nan", text=3.5),
        segment("times", "text", start="0.25", duration="0.5"),
        segment("zero", "7", duration=0.0),
        segment("negative", "7", duration=-1.0),
        segment("nan-start", "7", start=NAN),
        segment("no-time", "7", start="soon"),
        segment("list", "7", text=["A"]),
        segment("true", "7", text=True),
        segment("lost", "none"),
        segment("two\nlines", "7"),
        segment("tab\tbed", "7"),
        segment("far", "7", start=10**400),
        segment("loud", "7", channel=float("inf")),
        segment("", "7"),
        segment(None, "7"),
        {"id": "half"},
    )
    run(tmp_path / "in", tmp_path / "out", ["train"], min_seconds=0.1)
    assert texts(tmp_path / "out") == {
        "number": "2024",
        "12": "TWELVE",
        "float": "3.5",
        "times": "TEXT OF times",
    }
    (times,) = (
        item
        for item in read_items(tmp_path / "out/manifests/x_supervisions_train.jsonl.gz")
        if item["id"] == "times"
    )
    assert (times["start"], times["duration"]) == (0.25, 0.5)
    left_out = report(tmp_path / "out", "train")["left_out"]
    assert left_out["no duration"] == ["negative", "zero"]
    assert left_out["not a finite number"] == ["far", "half", "lost", "nan-start", "no-time"]
    assert left_out["transcript is no text"] == ["list", "true"]
    assert len(left_out["id with a line break, a tab or another control character"]) == 2
    assert len(left_out["id that is empty, or begins or ends with a space"]) == 1
    assert len(left_out["not an item of its manifest"]) == 2
    assert sum(map(len, left_out.values())) == 14


def test_segments_that_end_a_few_milliseconds_late_are_trimmed(tmp_path: Path) -> None:
    path = audio(tmp_path / "x.wav", 0.1)
    write(tmp_path / "in/recordings_train.jsonl", recording("x", path, num_samples=16080))
    write(
        tmp_path / "in/supervisions_train.jsonl",
        segment("end", "x", start=0.5, duration=0.525),
        segment("begin", "x", start=-0.02, duration=0.52),
        segment("late", "x", start=0.5, duration=0.526),
        segment("early", "x", start=-0.026, duration=0.5),
        segment("after", "x", start=1.0, duration=0.02),
        segment("in", "x", start=0.25, duration=0.75),
    )
    run(tmp_path / "in", tmp_path / "out", ["train"], min_seconds=0.0)
    found = {
        item["id"]: (item["start"], item["duration"])
        for item in read_items(tmp_path / "out/manifests/x_supervisions_train.jsonl.gz")
    }
    assert found == {"end": (0.5, 0.5), "begin": (0.0, 0.5), "in": (0.25, 0.75)}
    table = report(tmp_path / "out", "train")
    assert table["left_out"] == {"beyond the end of its recording": ["after", "early", "late"]}
    assert table["changed"] == {
        "as long as its audio, not as its manifest says": ["x"],
        "trimmed to its recording": ["begin", "end"],
    }
    assert values(tmp_path / "out").keys() == found.keys()


def test_relative_paths_begin_in_the_users_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or in the manifest's; programs are run in another one."""
    audio(tmp_path / "user/wav/a.wav", 0.1)
    audio(tmp_path / "user/in/wav/b.wav", 0.2)
    audio(tmp_path / "user/in/wav/a.wav", 0.3)
    (tmp_path / "program").mkdir()
    monkeypatch.chdir(tmp_path / "program")
    folder = tmp_path / "user/in"
    write(
        folder / "recordings_train.jsonl",
        *(recording(name, f"wav/{name}.wav") for name in ("a", "b", "c")),
    )
    write(folder / "supervisions_train.jsonl", *(segment(name, name) for name in ("a", "b", "c")))
    run(folder, tmp_path / "out", ["train"], audio_root=tmp_path / "user")
    assert values(tmp_path / "out") == {"a": 0.1, "b": 0.2}
    table = json.loads((tmp_path / "out/manifests/x_train.report.json").read_text())
    assert table["left_out"]["audio missing"]["utterances"] == {
        "c": str(tmp_path / "user/wav/c.wav")
    }
    source = next(read_items(tmp_path / "out/manifests/x_recordings_train.jsonl.gz"))
    assert source["sources"][0]["source"] == str(tmp_path / "user/wav/a.wav")


def test_names_in_other_encodings(tmp_path: Path) -> None:
    path = audio(tmp_path / "x.wav", 0.1)
    write(
        tmp_path / "in/recordings_train.jsonl",
        recording("caf\u00e9", path),
        recording("bad", "/corpus/\udce9.wav"),
    )
    write(
        tmp_path / "in/supervisions_train.jsonl",
        segment("a", "cafe\u0301"),
        segment("b", "bad"),
        segment("\udce9", "caf\u00e9"),
        segment("c", "caf\u00e9", text="\udce9"),
        segment("d", "caf\u00e9", speaker="\udce9"),
    )
    run(tmp_path / "in", tmp_path / "out", ["train"])
    assert values(tmp_path / "out") == {"a": 0.1}
    left_out = report(tmp_path / "out", "train")["left_out"]
    assert left_out.pop("text that is not UTF-8") == ["c", "d"]
    assert sorted(left_out) == ["name is not UTF-8"]
    assert len(left_out["name is not UTF-8"]) == 2


def test_names_that_lhotse_kaldi_import_writes(tmp_path: Path) -> None:
    """`recordings.jsonl.gz` and `supervisions.jsonl.gz`: the folder is the split."""
    for number, split in enumerate(("train", "dev")):
        path = audio(tmp_path / f"{split}.wav", 0.1 * (number + 1))
        folder = tmp_path / "in" / split
        folder.mkdir(parents=True)
        RecordingSet.from_dicts([recording(split, path)]).to_file(folder / "recordings.jsonl.gz")
        SupervisionSet.from_dicts([segment(f"{split}-1", split)]).to_file(
            folder / "supervisions.jsonl.gz"
        )
    assert run(tmp_path / "in", tmp_path / "out", ["tr*"], dev=["dev"]) == ["train", "dev"]
    assert values(tmp_path / "out") == {"train-1": 0.1}
    assert values(tmp_path / "out", "dev") == {"dev-1": 0.2}
    # A folder that is a split itself.
    assert run(tmp_path / "in/dev", tmp_path / "one", ["dev"]) == ["dev"]


def test_a_fault_of_one_supervision_costs_no_other(tmp_path: Path) -> None:
    path = audio(tmp_path / "x.wav", 0.1)
    write(
        tmp_path / "in/cuts_train.jsonl",
        cut("c", recording("x", path), segment("a", "x"), segment("b", "x", duration=0)),
        cut("d", recording("x", path)),
        cut("e", recording("x", path), segment("e", "x")) | {"duration": NAN},
    )
    run(tmp_path / "in", tmp_path / "out", ["train"])
    assert ids(tmp_path / "out", "train") == ["a"]
    assert report(tmp_path / "out", "train")["left_out"] == {
        "no duration": ["b"],
        "not a finite number": ["e"],
        "transcript missing": ["d"],
    }
