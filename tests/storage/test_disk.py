"""Disks that are full or read-only, and files where folders belong: words, and nothing half
written."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from mvqkd.checkpoints.files import epochs, save_checkpoint
from mvqkd.data.targets.embeddings import EmbeddingsInfo, write_embeddings
from mvqkd.errors import UserError
from mvqkd.storage.files import make_folder, write_json, write_text
from mvqkd.storage.jsonl import write_items
from mvqkd.storage.locks import own_folder
from mvqkd.storage.tensors import save_tensors


def _embeddings(path: Path) -> None:
    info = EmbeddingsInfo("hf:x", 1, 50.0, 1000)
    with write_embeddings(path, info=info, total_frames=200, dtype="float32") as writer:
        for number in range(200):
            writer.write(str(number), np.ones((1, 1000), np.float32))


WRITERS: dict[str, Callable[[Path], object]] = {
    "text": lambda path: write_text(path, "x" * 200_000),
    "json": lambda path: write_json(path, {"x": "x" * 200_000}),
    "items": lambda path: write_items(path, ({"x": os.urandom(1000).hex()} for _ in range(300))),
    "tensors": lambda path: save_tensors(path, {"x": torch.zeros(100_000)}),
    "many tensors": lambda path: save_tensors(path, [torch.zeros(n) for n in range(1000)]),
    "embeddings": _embeddings,
}


@pytest.fixture
def full() -> Iterator[None]:
    """No file may grow beyond 100 kB, as on a disk that is full then."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_told_of_and_nothing_is_left(tmp_path: Path, full: None, name: str) -> None:
    path = tmp_path / "x.gz"
    path.write_text("before")
    with pytest.raises(UserError, match=r"x\.gz cannot be written: File too large"):
        WRITERS[name](path)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_what_the_system_refuses_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(UserError, match=f"x.h5 cannot be written: {os.strerror(number)}") as caught:
        WRITERS[name](tmp_path / "x.h5")
    assert caught.value.remedy
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_where_a_folder_belongs_is_told_of(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "x.h5", tmp_path / "file" / "deeper" / "x.h5"):
        with pytest.raises(UserError, match=r"x\.h5 cannot be written") as caught:
            WRITERS[name](path)
        assert "move it away" in str(caught.value.remedy)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="folder cannot be written: Is a directory"):
        WRITERS[name](tmp_path / "folder")
    assert not list((tmp_path / "folder").iterdir())


def test_folders_in_the_way_of_folders_and_of_epochs(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for make in (make_folder, lambda path: own_folder(path, work="run", wait=False).__enter__()):
        with pytest.raises(UserError, match="file cannot be written: File exists"):
            make(tmp_path / "file")
    (tmp_path / "epoch-2.pt").mkdir()
    save_checkpoint(tmp_path / "epoch-1.pt", {})
    assert epochs(tmp_path) == [1]


def test_a_disk_that_fills_while_hdf5_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HDF5 tells of it in some lines; what it needs for its end was kept for it."""
    kept = []
    monkeypatch.setattr(os, "posix_fallocate", lambda _, start, size: kept.append(start + size))
    with (
        pytest.raises(UserError) as caught,
        write_embeddings(
            tmp_path / "x.h5", info=EmbeddingsInfo("hf:x", 1, 50.0, 4), total_frames=9
        ) as writer,
    ):
        writer.write("a", np.ones((2, 4), np.float32))
        raise OSError(errno.ENOSPC, "Can't write data\n(file write failed)")
    assert caught.value.problem == f"{tmp_path}/x.h5 cannot be written: No space left on device"
    assert kept[0] > kept[1] > 0 and not list(tmp_path.iterdir())


def test_defects_keep_their_traceback(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", {"x": object()})
    with pytest.raises(ZeroDivisionError):
        write_items(tmp_path / "x.jsonl.gz", ({"x": 1 / n} for n in range(2)))
    assert not list(tmp_path.iterdir())


def test_a_thread_that_writes_curves_prints_no_traceback() -> None:
    program = (
        "import threading\n"
        "from mvqkd.recipe.program import run_program\n"
        "def fail(error):\n"
        "    raise error\n"
        "def main():\n"
        "    for error in (OSError(28, 'full'), ZeroDivisionError('defect')):\n"
        "        thread = threading.Thread(target=fail, args=(error,))\n"
        "        thread.start(); thread.join()\n"
        "    raise OSError(30, 'Read-only file system', '/x/y')\n"
        "run_program(main)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1 and "defect" in done.stderr
    assert "error: /x/y: Read-only file system\n  remedy: give the permission" in done.stderr
