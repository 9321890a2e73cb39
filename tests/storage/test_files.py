"""JSON and commented texts: what was written is read; what was written by hand, too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mvqkd.errors import UserError
from mvqkd.storage.files import (
    read_commented,
    read_json,
    read_json_list,
    write_commented,
    write_json,
)

VALUE = {"name": "böse", "number": 0.1 + 0.2, "list": [1, None, {"a": "b"}], "big": 10**20}


def test_values_are_what_was_written_and_the_digest_is_not_among_them(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, VALUE)
    assert read_json(path) == VALUE
    assert json.loads(path.read_text())["digest"].startswith("sha256:")
    write_json(path, json.loads(path.read_text()))  # another program's reading
    assert read_json(path) == VALUE
    write_json(path, [VALUE, {}])
    assert read_json_list(path) == [VALUE, {}]
    with pytest.raises(UserError, match=r"x\.json is damaged: no JSON object"):
        read_json(path)


def test_what_was_changed_by_hand_needs_no_digest(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, VALUE)
    path.write_text(path.read_text().replace("b\u00f6se", "gut"))
    with pytest.raises(UserError, match=r"not those that were written .*remove digest"):
        read_json(path, remedy="do this", step="tokens")
    changed = json.loads(path.read_text())
    del changed["digest"]
    path.write_text(json.dumps(changed))
    assert read_json(path) == {**VALUE, "name": "gut"}
    with pytest.raises(UserError, match=r"x\.json is damaged: it has no more, less"):
        read_json(path, needs=("name", "more", "less"))


def test_comments_hold_the_digest_of_the_lines_below(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    write_commented(path, "a: 1\nb: 2\n")
    lines = read_commented(path).splitlines()
    assert lines[1:] == ["a: 1", "b: 2"] and lines[0].startswith("# ")
    for damaged in ([lines[0], "a: 3", "b: 2"], lines[:2], lines[:1]):
        path.write_text("\n".join(damaged) + "\n")
        with pytest.raises(UserError, match=r"x\.yaml is damaged") as caught:
            read_commented(path)
        assert "remove its first line" in str(caught.value.remedy)
    path.write_text("a: 3\nb: 2\n")  # as advised
    assert read_commented(path) == "a: 3\nb: 2\n"
