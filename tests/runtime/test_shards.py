from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from mvqkd.errors import UserError
from mvqkd.runtime import shards as module
from mvqkd.runtime.shards import divide, divide_splits, prepare_folder, process_shards

ROOT = Path(__file__).parents[2]


def test_shards_hold_every_cut_in_order() -> None:
    seconds = np.array([1000.0, 2000.0, 700.0, 4000.0, 10.0, 10.0])
    assert divide(range(6), seconds, 1.0) == [[0, 1, 2], [3], [4, 5]]
    assert divide([5, 1], seconds, 0.1) == [[5, 1]]
    assert divide([], seconds, 1.0) == []


def test_a_new_part_changes_no_shard_of_the_others() -> None:
    seconds = np.array([1000.0, 2000.0, 700.0, 4000.0, 10.0])
    shards, names = divide_splits({"a": range(3), "b": range(3, 5)}, seconds, 0.5)
    assert shards == [[0, 1], [2], [3], [4]] and names == ["a", "a", "b", "b"]
    assert divide_splits({"a": range(3)}, seconds, 0.5) == (shards[:2], names[:2])


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


def process(paths: list[Path]) -> None:
    """Make every file in `paths`, a shard of its own."""
    process_shards(
        [[number] for number in range(len(paths))],
        np.ones(len(paths)),
        files=lambda shard: [paths[shard]],
        check=lambda shard: None,
        make=lambda shard, tick: paths[shard].touch(),
    )


@contextmanager
def another_run(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that is making the first of two shards; it is killed at the end."""
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from mvqkd.storage.files import atomic_path\n"
        "from mvqkd.runtime.shards import prepare_folder, process_shards\n"
        "paths = prepare_folder(Path(sys.argv[1]), ['codes'] * 2)\n"
        "def make(shard, tick):\n"
        "    with atomic_path(paths[shard]) as partial:\n"
        "        partial.touch()\n"
        "        print('begun', flush=True)\n"
        "        sys.stdin.read()\n"
        "process_shards([[0], [1]], np.ones(2), files=lambda shard: [paths[shard]],\n"
        "               check=print, make=make)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "begun\n"
        try:
            yield other
        finally:
            other.kill()


def test_a_second_run_in_the_same_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = prepare_folder(tmp_path, ["codes"] * 2)
    with another_run(tmp_path) as other:
        partial = tmp_path / f".tmp-{other.pid}-{paths[0].name}"
        for _ in range(2):  # asking does not take the lock from its owner
            with pytest.raises(UserError, match=f"{tmp_path}: process {other.pid} on"):
                process(paths)
        assert partial.exists() and not paths[0].exists()
        # The process of rank 0 holds the lock for the others, which leave it alone.
        monkeypatch.setenv("RANK", "1")
        monkeypatch.setenv("WORLD_SIZE", "2")
        process(paths)
        assert partial.exists() and [path.exists() for path in paths] == [False, True]
        monkeypatch.undo()
    process(paths)  # what a killed run leaves is in nobody's way, and goes
    assert sorted(tmp_path.glob("*codes*")) == paths


def test_a_folder_with_every_shard_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = prepare_folder(tmp_path, ["codes"] * 2)
    process(paths)
    monkeypatch.setattr(module, "own_folder", None)
    process(paths)


def test_that_others_are_waited_for_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    paths = prepare_folder(tmp_path, ["codes"] * 5)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    missing = [paths[1], paths[3]]
    monkeypatch.setattr(module.time, "sleep", lambda _: missing.pop().touch())
    with caplog.at_level(logging.INFO):
        process(paths)
    (line,) = [line for line in caplog.messages if "waiting" in line]
    assert line.startswith("waiting for 2 shards of other processes") and "WORLD_SIZE=2" in line
