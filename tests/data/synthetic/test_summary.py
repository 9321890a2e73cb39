from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import soundfile

from mvqkd.data.synthetic.summary import read_split, summary
from mvqkd.errors import UserError


def write_part(directory, texts):
    chapter = directory / "7" / "70"
    chapter.mkdir(parents=True)
    lines = []
    for index, text in enumerate(texts):
        name = f"7-70-{index:04d}"
        soundfile.write(chapter / f"{name}.flac", np.zeros(8000), 16000)
        lines.append(f"{name} {text}\n")
    (chapter / "7-70.trans.txt").write_text("".join(lines))


def test_counts_and_unknown_words(tmp_path):
    write_part(tmp_path / "a", ["THE DOG", "THE CAT"])
    write_part(tmp_path / "b", ["THE DOG", "A DOG"])
    parts = {name: read_split(tmp_path / name) for name in "ab"}
    assert parts["a"].seconds == 1.0
    assert parts["a"].words == Counter(THE=2, DOG=1, CAT=1)
    lines = summary(parts, train="a").splitlines()
    assert lines[1].split() == ["a", "0.0", "1", "2", "4", "3", "0.00", "1x"]
    assert lines[2].split() == ["b", "0.0", "1", "2", "4", "3", "25.00", "0x"]


def test_a_missing_recording_is_named(tmp_path):
    write_part(tmp_path / "a", ["THE DOG"])
    (tmp_path / "a/7/70/7-70-0000.flac").unlink()
    with pytest.raises(UserError, match=r"7-70-0000\.flac is missing"):
        read_split(tmp_path / "a")


def test_an_empty_part_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no transcripts"):
        read_split(tmp_path)
