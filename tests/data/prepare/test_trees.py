"""Trees that are not quite LibriSpeech's: names, links, suffixes, depths, transcript files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mvqkd.data.prepare.folders import walk_files
from mvqkd.data.prepare.trees import read_transcripts
from mvqkd.errors import UserError
from mvqkd.storage.jsonl import read_items
from tests.data.prepare.manifests import ids, report, run, values


@pytest.fixture
def add(tmp_path: Path) -> Callable[..., None]:
    """Write audio of a constant value, and perhaps its transcript, into `corpus/train`."""

    def write(
        folder: str, name: str, value: float, text: str | None = None, suffix: str = ".wav"
    ) -> None:
        home = tmp_path / "corpus/train" / folder
        home.mkdir(parents=True, exist_ok=True)
        form = {".flac": "FLAC"}.get(suffix.lower(), "WAV")
        soundfile.write(home / f"{name}{suffix}", np.full(8000, value), 16000, format=form)
        if text is not None:
            with open(home / "x.trans.txt", "a", encoding="utf-8") as file:
                file.write(f"{name} {text}\n")

    return write


def prepared(tmp_path: Path, **roles: list[str]) -> dict[str, tuple[str, float]]:
    """Id -> transcript and the value of the audio, as lhotse reads it."""
    run(tmp_path / "corpus", tmp_path / "out", **(roles or {"train": ["train"]}))
    found = values(tmp_path / "out")
    path = tmp_path / "out/manifests/x_supervisions_train.jsonl.gz"
    return {item["id"]: (item["text"], found[item["id"]]) for item in read_items(path)}


def test_names_that_repeat_keep_their_own_audio_and_text(
    tmp_path: Path, add: Callable[..., None]
) -> None:
    for number, speaker in enumerate(("anna", "bert", "carl")):
        add(f"{speaker}/1", "0001", 0.1 * (number + 1), f"WORDS OF {speaker.upper()}")
    add("anna/1", "0002", 0.5, "ONLY ONE")
    add("dora/1", "0001", 0.7)  # no transcript: not that of another
    assert prepared(tmp_path) == {
        "0002": ("ONLY ONE", 0.5),
        "anna-1-0001": ("WORDS OF ANNA", 0.1),
        "bert-1-0001": ("WORDS OF BERT", 0.2),
        "carl-1-0001": ("WORDS OF CARL", 0.3),
    }
    assert report(tmp_path / "out", "train")["left_out"] == {"transcript missing": ["dora-1-0001"]}


def test_a_transcript_of_another_folder_only_where_the_name_is_unique(
    tmp_path: Path, add: Callable[..., None]
) -> None:
    add("a/wav", "one", 0.1)
    add("a/wav", "two", 0.2)
    add("b/wav", "two", 0.3, "B TWO")
    text = tmp_path / "corpus/train/a/text/a.trans.txt"
    text.parent.mkdir()
    text.write_text("one A ONE\ntwo A TWO\nthree A THREE\n")
    assert prepared(tmp_path) == {"one": ("A ONE", 0.1), "b-wav-two": ("B TWO", 0.3)}
    table = report(tmp_path / "out", "train")
    assert table["left_out"] == {
        "transcript missing": ["a-wav-two"],
        "audio missing": ["a-text-two", "three"],
    }
    assert table["changed"] == {"transcript from another folder": ["one"]}


def test_an_id_with_its_folders_that_is_taken_is_reported(
    tmp_path: Path, add: Callable[..., None]
) -> None:
    add("a", "1", 0.1, "FIRST")
    add("b", "1", 0.2, "SECOND")
    add("c", "a-1", 0.3, "THIRD")
    assert prepared(tmp_path) == {"a-1": ("THIRD", 0.3), "b-1": ("SECOND", 0.2)}
    assert report(tmp_path / "out", "train")["left_out"] == {"duplicate id": ["a-1"]}


def test_links_suffixes_and_depths(tmp_path: Path, add: Callable[..., None]) -> None:
    add("", "top", 0.1, "TOP")
    add("a", "big", 0.2, "BIG", suffix=".WAV")
    add("a/b/c/d", "deep", 0.3, "DEEP", suffix=".Flac")
    add("../elsewhere", "linked", 0.4, "LINKED")
    train = tmp_path / "corpus/train"
    (tmp_path / "corpus/elsewhere").rename(tmp_path / "elsewhere")
    (train / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (train / "again").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (train / "a/loop").symlink_to(tmp_path / "corpus", target_is_directory=True)
    add("a/.AppleDouble", "big", 0.9, "OTHER")
    (train / "a/gone.wav").symlink_to(tmp_path / "nowhere.wav")
    with open(train / "a/x.trans.txt", "a") as file:
        file.write("gone GONE\n")
    for name in ("a/phone.m4a", "a/notes.txt", "a/.hidden.wav"):
        (train / name).write_bytes(b"?")
    assert prepared(tmp_path) == {
        "top": ("TOP", 0.1),
        "big": ("BIG", 0.2),
        "deep": ("DEEP", 0.3),
        "linked": ("LINKED", 0.4),
    }
    table = report(tmp_path / "out", "train")
    assert table["left_out"] == {"audio missing": ["gone"]}
    unused = {name: why for why, names in table["not_used"].items() for name in names}
    folders = {"a/loop", "link", "a/.AppleDouble"}
    assert unused.keys() == {"a/phone.m4a", "a/notes.txt"} | folders
    assert "a link to" in unused["a/loop"] and "a link to" in unused["link"]
    assert "*.trans.txt" in unused["a/notes.txt"] and ".flac" in unused["a/phone.m4a"]
    speakers = {
        item["id"]: item.get("speaker")
        for item in read_items(tmp_path / "out/manifests/x_supervisions_train.jsonl.gz")
    }
    assert speakers == {"top": None, "big": "a", "deep": "a", "linked": "again"}


def test_files_that_are_not_used_do_not_stop_a_strict_run(
    tmp_path: Path, add: Callable[..., None]
) -> None:
    add("a", "one", 0.1, "ONE")
    (tmp_path / "corpus/train/README.txt").write_text("notes")
    run(tmp_path / "corpus", tmp_path / "out", ["train"], strict=True)
    assert ids(tmp_path / "out", "train") == ["one"]


def test_names_in_other_encodings(tmp_path: Path, add: Callable[..., None]) -> None:
    """macOS composes accents in its own way; older systems are not UTF-8."""
    composed, decomposed = "caf\u00e9", "the\u0301"
    add("a", "cafe\u0301", 0.1)
    add("a", "th\u00e9", 0.2)
    add("a", "bell\x07", 0.3, "BELL")
    latin = os.fsdecode(b"\xe9t\xe9")
    (tmp_path / "corpus/train/a" / f"{latin}.wav").touch()
    (tmp_path / "corpus/train/a/y.trans.txt").write_text(f"{composed} ONE\n{decomposed} TWO\n")
    assert prepared(tmp_path) == {"caf\u00e9": ("ONE", 0.1), "th\u00e9": ("TWO", 0.2)}
    assert report(tmp_path / "out", "train")["left_out"] == {
        "name is not UTF-8": ["\\udce9t\\udce9"],
        "id with a line break, a tab or another control character": ["bell\\x07"],
    }


def test_transcript_files(tmp_path: Path) -> None:
    """A mark of byte order, tabs, separators that are no ends of lines, Windows' ends of lines."""
    path = tmp_path / "x.trans.txt"
    path.write_bytes(
        "\ufeffa FIRST LINE\r\nb\tTAB  AND \t MORE\n\n  c   INDENTED\nd\n"
        "e ONE\u2028HALF\x85AND\x0bANOTHER\x1cEND\nf\u3000WIDE\n".encode()
    )
    assert [(name, text.split()) for name, text in read_transcripts(path)] == [
        ("a", ["FIRST", "LINE"]),
        ("b", ["TAB", "AND", "MORE"]),
        ("c", ["INDENTED"]),
        ("d", []),
        ("e", ["ONE", "HALF", "AND", "ANOTHER", "END"]),
        ("f", ["WIDE"]),
    ]
    path.write_bytes("a caf\u00e9\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"not UTF-8.*\n.*convert"):
        read_transcripts(path)


def test_whitespace_of_transcripts_is_one_space(tmp_path: Path, add: Callable[..., None]) -> None:
    add("a", "one", 0.1, "A \u2028 B\u00a0C\tD ")
    assert prepared(tmp_path) == {"one": ("A B C D", 0.1)}


def test_a_folder_is_walked_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/file").touch()
    (tmp_path / "a/up").symlink_to(tmp_path, target_is_directory=True)
    skipped: list[Path] = []
    found = walk_files(tmp_path / "a", lambda path, why: skipped.append(path))
    assert list(found) == [tmp_path / "a/file"]
    assert skipped == [tmp_path / "a/up"]
    assert list(walk_files(tmp_path / "none")) == []


def test_names_that_other_splits_have_too(tmp_path: Path, add: Callable[..., None]) -> None:
    """Utterances that are numbered in each split are others; copies are the same, stored or spelled
    in another way."""
    add("a", "1", 0.1, "ONE")
    add("a", "2", 0.2, "TWO")
    add("a", "3", 0.3, "THREE")
    add("../dev/b", "1", 0.4, "FOUR")
    add("../dev/b", "dev-1", 0.5, "FIVE")
    run(tmp_path / "corpus", tmp_path / "out", ["train"], dev=["dev"])
    assert values(tmp_path / "out") == {"1": 0.1, "2": 0.2, "3": 0.3}
    assert values(tmp_path / "out", "dev") == {"dev-1": 0.4, "dev-dev-1": 0.5}
    table = report(tmp_path / "out", "dev")
    assert list(table["changed"].values()) == [["dev-1", "dev-dev-1"]]
    assert table["left_out"] == {}

    for name, value, text in (("2", 0.2, "ZWEI"), ("3", 0.7, "Three.")):
        add("../dev/b", name, value, text)
        with pytest.raises(UserError, match=f"1 utterances of dev .*: {name} is in train"):
            run(tmp_path / "corpus", tmp_path / "other", ["train"], dev=["dev"])
        (tmp_path / f"corpus/dev/b/{name}.wav").unlink()
