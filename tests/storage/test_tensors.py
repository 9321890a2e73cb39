"""Files of tensors: what was written is read, and nothing else passes for it."""

from __future__ import annotations

import os
import pickle
import random
from pathlib import Path

import pytest
import torch

from mvqkd.errors import UserError
from mvqkd.storage.tensors import load_tensors, save_tensors, verify_tensors

VALUE = {"a": torch.arange(12.0).view(3, 4), "b": {"c": torch.tensor([1, 2])}, "n": 3, "s": "x"}


def same(found: object) -> bool:
    return repr(found) == repr(VALUE)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_tensors(tmp_path / "x.pt", VALUE)
    return tmp_path / "x.pt"


@pytest.mark.parametrize("mmap", [False, True])
def test_torch_reads_it_too_and_equal_values_are_equal_bytes(path: Path, mmap: bool) -> None:
    assert same(load_tensors(path, mmap=mmap))
    assert same(torch.load(path, weights_only=True, mmap=mmap))
    other = path.with_name("other-name.pt")
    save_tensors(other, VALUE)
    assert other.read_bytes() == path.read_bytes()


def test_no_flipped_bit_gives_other_values(path: Path) -> None:
    whole = path.read_bytes()
    bits = random.Random(0).sample(range(8 * len(whole)), 300)
    # torch takes a record with this attribute, in the archive's directory, for an empty one.
    bits += [
        8 * (place + 38) + 4 for place in range(len(whole)) if whole[place:].startswith(b"PK\1\2")
    ]
    for bit in bits:
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            assert same(load_tensors(path)), bit
        except UserError as error:
            assert error.problem.startswith(f"{path} is damaged"), bit
            assert "weights_only" not in str(error)


@pytest.mark.parametrize("size", [0, 3, 100, -200, -90, -77, -70, -1])
def test_truncated_files_are_named(path: Path, size: int) -> None:
    os.truncate(path, size if size >= 0 else path.stat().st_size + size)
    with pytest.raises(UserError, match=r"x\.pt is damaged") as caught:
        load_tensors(path, remedy="do this", step="training")
    assert caught.value.advice == "do this" and caught.value.step == "training"


def test_files_without_a_digest_are_read_and_their_records_verified(path: Path) -> None:
    torch.save(VALUE, path)
    assert same(load_tensors(path))
    whole = bytearray(path.read_bytes())
    whole[whole.index(VALUE["a"].numpy().tobytes()) + 5] ^= 1  # type: ignore[union-attr]
    path.write_bytes(whole)
    with pytest.raises(UserError, match=r"its record .*data/0 is not what was written"):
        verify_tensors(path)


@pytest.mark.parametrize("legacy", [True, False])
def test_files_without_any_checksum_are_read(path: Path, legacy: bool) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(VALUE, path, _use_new_zipfile_serialization=not legacy)
    finally:
        torch.serialization.set_crc32_options(True)
    assert same(load_tensors(path))


def test_code_is_not_run_nor_advised_to_be(path: Path, tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path}/ran",)

    for write in (
        lambda: torch.save(Payload(), path),
        lambda: path.write_bytes(pickle.dumps(Payload())),
    ):
        write()
        with pytest.raises(
            UserError, match=r"x\.pt is damaged, or is no file of tensors"
        ) as caught:
            load_tensors(path)
        assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "ran").exists()
