from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mvqkd.errors import UserError
from mvqkd.teachers.shards import divide, divide_parts, prepare_folder, process_shards


def test_shards_hold_every_cut_in_order() -> None:
    seconds = np.array([1000.0, 2000.0, 700.0, 4000.0, 10.0, 10.0])
    assert divide(range(6), seconds, 1.0) == [[0, 1, 2], [3], [4, 5]]
    assert divide([5, 1], seconds, 0.1) == [[5, 1]]
    assert divide([], seconds, 1.0) == []


def test_a_new_part_changes_no_shard_of_the_others() -> None:
    seconds = np.array([1000.0, 2000.0, 700.0, 4000.0, 10.0])
    shards, names = divide_parts({"a": range(3), "b": range(3, 5)}, seconds, 0.5)
    assert shards == [[0, 1], [2], [3], [4]] and names == ["a", "a", "b", "b"]
    assert divide_parts({"a": range(3)}, seconds, 0.5) == (shards[:2], names[:2])


def test_files_of_another_division_are_refused(tmp_path: Path) -> None:
    names = ["train", "train", "train", "train-00001"]
    paths = prepare_folder(tmp_path, names)
    assert [path.name for path in paths[2:]] == [
        "train-00002-of-00003.h5",
        "train-00001-00000-of-00001.h5",
    ]
    for path in paths:
        path.touch()
    (tmp_path / ".tmp-1-train-00002-of-00003.h5").touch()
    assert prepare_folder(tmp_path, names) == paths
    assert len(prepare_folder(tmp_path, ["dev"])) == 1  # beside the others
    with pytest.raises(UserError, match=r"train-0000.-of-00003\.h5, which is none of the 2"):
        prepare_folder(tmp_path, ["train", "train"])


def test_processes_share_the_shards_and_keep_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = prepare_folder(tmp_path, ["codes"] * 5)
    paths[2].touch()
    stale = tmp_path / f".tmp-1-{paths[1].name}"
    stale.touch()
    made: list[int] = []
    checked: list[int] = []

    def make(shard: int, tick: object) -> None:
        made.append(shard)
        paths[shard].touch()

    for rank, expected in ((1, [1, 3]), (0, [0, 4])):
        made.clear()
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        process_shards(
            [[n] for n in range(5)],
            np.ones(5),
            files=lambda shard: [paths[shard]],
            check=checked.append,
            make=make,
        )
        assert made == expected
    assert checked == [2] and not stale.exists()
