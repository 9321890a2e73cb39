"""JSON lines: damage is named before anything comes of it; damaged lines of logs are left out."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import pytest

from mvqkd.errors import UserError
from mvqkd.storage.jsonl import log_line, read_items, read_lines, read_log, write_items

ITEMS = [{"id": f"utterance-{number}", "duration": number / 7} for number in range(500)]


def test_no_line_is_given_of_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.gz"
    write_items(path, ITEMS)
    whole = path.read_bytes()
    refused = 0
    for bit in random.Random(0).sample(range(8 * len(whole)), 200):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        given = []
        try:
            for item in read_items(path):
                given.append(item)
            assert given == ITEMS, bit
        except UserError as error:
            refused += 1
            assert not given and str(path) in error.problem, bit
    assert refused > 190
    for content in (b"", whole[:-1], whole[:-9], whole[: len(whole) // 2], b"words"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"x\.jsonl\.gz cannot be read") as caught:
            list(read_lines(path))
        assert str(caught.value.remedy).startswith("put a copy of it back")  # it may be another's


def test_an_archive_without_lines_is_one(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.gz"
    write_items(path, [])
    assert list(read_items(path)) == []
    path.write_bytes(gzip.compress(b"[1]\nwords\n"))
    with pytest.raises(UserError, match="line 2 is not JSON"):
        list(read_items(path))


def test_damaged_lines_of_a_log_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    lines = [{"step": step, "loss": 1 / step, "x": None} for step in range(1, 9)]
    whole = "".join(map(log_line, lines)).encode()
    assert read_log(path) == []
    path.write_bytes(whole + b'{"step": 9, "lo')
    assert read_log(path) == lines
    for bit in random.Random(0).sample(range(8 * len(whole)), 400):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        found = read_log(path)
        # A damaged name of the checksum is a value more.
        kept = [
            {name: line[name] for name in ("step", "loss", "x") if name in line} for line in found
        ]
        assert all(line in lines for line in kept) and len(kept) >= 6, bit
    path.write_text('{"step": 1}\n[2]\n3\n')  # of an earlier version, and no lines of a log
    assert read_log(path) == [{"step": 1}]
