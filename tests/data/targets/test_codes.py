from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from mvqkd.data.targets.codes import CodesInfo, CodeStore, write_codes
from mvqkd.errors import UserError
from mvqkd.storage.ragged import shard_path
from tests.storage.older import without_digests

INFO = CodesInfo(
    teacher="torchaudio:X", layer=3, frame_rate=50.0, quantizer_id="abc", num_codebooks=4
)


def random_codes(lengths: dict[str, int], seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        name: generator.integers(0, 256, (frames, 4), dtype=np.uint8)
        for name, frames in lengths.items()
    }


def write(path: Path, codes: dict[str, np.ndarray], info: CodesInfo = INFO) -> Path:
    with write_codes(path, info=info, total_frames=sum(map(len, codes.values()))) as writer:
        for name, array in codes.items():
            writer.write(name, array)
    return path


def test_round_trip_of_one_file_and_of_shards(tmp_path: Path) -> None:
    codes = random_codes({"a": 7, "a_sp0.9": 8, "böse": 5, "c": 0})
    names = list(codes)
    write(tmp_path / "one.h5", codes)
    for index in range(2):
        part = {name: codes[name] for name in names[index::2]}
        write(shard_path(tmp_path / "many", "codes", index, 2), part)
    for path in (tmp_path / "one.h5", tmp_path / "many"):
        store = CodeStore(path)
        assert store.info == INFO
        assert set(store) == set(names) and len(store) == 4 and store.total_frames == 20
        for name in names:
            np.testing.assert_array_equal(store[name], codes[name])
            assert store.num_frames(name) == len(codes[name])
        with pytest.raises(UserError, match="utterance nobody"):
            store["nobody"]
        with pytest.raises(ValueError, match="read-only"):
            store["a"][0, 0] = 1


@pytest.mark.parametrize(
    ("num_utterances", "frames", "num_codebooks"),
    # a few minutes; a tenth of an hour of short utterances at 25 Hz; one codebook at 50 Hz, 5 hours
    [(150, 500, 4), (3000, 60, 4), (1500, 550, 1)],
)
def test_a_file_costs_one_byte_per_codebook_and_frame_plus_five_percent(
    tmp_path: Path, num_utterances: int, frames: int, num_codebooks: int
) -> None:
    random = np.random.default_rng(0)
    lens = {
        f"{n // 97}-{121119 + n // 40}-{n % 97:04d}_sp0.9": int(frames * random.uniform(0.5, 1.5))
        for n in range(num_utterances)
    }
    info = replace(INFO, num_codebooks=num_codebooks)
    payload = sum(lens.values()) * num_codebooks
    path = tmp_path / "codes.h5"
    with write_codes(path, info=info, total_frames=sum(lens.values())) as writer:
        for name, count in lens.items():
            writer.write(name, random.integers(0, 256, (count, num_codebooks), dtype=np.uint8))
    assert payload <= path.stat().st_size <= 1.05 * payload


def test_codes_of_another_configuration_are_refused(tmp_path: Path) -> None:
    store = CodeStore(write(tmp_path / "codes.h5", random_codes({"a": 4})))
    store.require(ids=["a"], quantizer_id="abc", frame_rate=50.0, num_codebooks=4)
    for wrong in ({"quantizer_id": "xyz"}, {"frame_rate": 25.0}, {"num_codebooks": 8}):
        with pytest.raises(UserError, match=f"{next(iter(wrong))} .*, not"):
            store.require(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="codes of 2 utterances, as b"):
        store.require(ids=["a", "b", "c"])


def test_verify_names_what_is_wrong(tmp_path: Path) -> None:
    codes = random_codes({"a": 4, "b": 6})
    store = CodeStore(write(tmp_path / "codes.h5", codes))
    store.verify({"a": 4, "b": 6}, quantizer_id="abc")
    with pytest.raises(UserError, match="utterance b: 6 frames of codes, not 7"):
        store.verify({"a": 4, "b": 7}, quantizer_id="abc")
    store.verify({"a": 4}, quantizer_id="abc")
    with pytest.raises(UserError, match="as c"):
        store.verify({"a": 4, "b": 6, "c": 1}, quantizer_id="abc")
    with pytest.raises(UserError, match="quantizer_id"):
        store.verify({"a": 4, "b": 6}, quantizer_id="xyz")
    small = CodesInfo(**{**INFO.__dict__, "codebook_size": 16})
    store = CodeStore(write(tmp_path / "small.h5", codes, small))
    with pytest.raises(UserError, match="in codebooks of 16"):
        store.verify({"a": 4, "b": 6}, quantizer_id="abc")


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "codes.h5", random_codes({"a": 3000, "b": 3000}))
    os.truncate(path, path.stat().st_size - 100)
    with pytest.raises(UserError, match=r"codes\.h5 is damaged: it is truncated"):
        CodeStore(path)


def test_missing_and_mixed_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is missing"):
        CodeStore(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"has no \.h5 file"):
        CodeStore(tmp_path)
    write(shard_path(tmp_path, "codes", 0, 3), random_codes({"a": 3}))
    write(shard_path(tmp_path, "codes", 2, 3), random_codes({"c": 3}))
    with pytest.raises(UserError, match="lacks 1 of 3 shards, as codes-00001-of-00003"):
        CodeStore(tmp_path)
    other = CodesInfo(**{**INFO.__dict__, "quantizer_id": "other"})
    write(shard_path(tmp_path, "codes", 1, 3), random_codes({"b": 3}), other)
    with pytest.raises(UserError, match="differ in quantizer_id"):
        CodeStore(tmp_path)
    write(shard_path(tmp_path, "codes", 1, 3), random_codes({"a": 3}))
    with pytest.raises(UserError, match="has utterance a, which another shard has too"):
        CodeStore(tmp_path)
    write(shard_path(tmp_path, "codes", 1, 2), random_codes({"b": 3}))
    with pytest.raises(UserError, match=r"codes-.*beside|lacks"):
        CodeStore(tmp_path)


def test_older_files_have_the_defaults_of_what_they_do_not_tell(tmp_path: Path) -> None:
    path = write(tmp_path / "codes.h5", random_codes({"a": 4}))
    with h5py.File(path, "a") as file:
        del file.attrs["codebook_size"], file.attrs["rate_weight"]
    with pytest.raises(UserError, match="attributes are not what was written"):
        CodeStore(path)
    without_digests(path)
    store = CodeStore(path)
    assert store.info == INFO
    store.require(rate_weight=0.0)
    with pytest.raises(UserError, match=r"rate_weight 0\.0, not 0\.01"):
        store.require(rate_weight=0.01)


@pytest.mark.parametrize(("place", "row"), [(0, 1), (1, 11), (2, 9)])
def test_offsets_that_do_not_fit_are_refused(tmp_path: Path, place: int, row: int) -> None:
    path = write(tmp_path / "codes.h5", random_codes({"a": 4, "b": 6}))
    with h5py.File(path, "a") as file:
        file["offsets"][place] = row
    with pytest.raises(UserError, match="do not fit together"):
        CodeStore(path)


def test_the_writer_refuses_what_was_not_declared_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "codes.h5"
    row = np.zeros((2, 4), np.uint8)
    for frames, arrays, message in [
        (3, [row], "2 rows written of 3"),
        (1, [row], "row 2 of 1"),
        (2, [row.astype(np.int64)], "int64"),
        (2, [np.zeros((2, 5), np.uint8)], r"\(2, 5\)"),
        (4, [row, row], "written twice"),
    ]:
        with (
            pytest.raises(ValueError, match=message),
            write_codes(path, info=INFO, total_frames=frames) as writer,
        ):
            for array in arrays:
                writer.write("a", array)
        assert list(tmp_path.iterdir()) == []


def _write_until_killed(path: str, started: object) -> None:
    with write_codes(path, info=INFO, total_frames=10) as writer:
        writer.write("a", np.zeros((5, 4), np.uint8))
        started.set()  # type: ignore[attr-defined]
        signal.pause()


def test_a_killed_writer_leaves_no_file_under_the_name(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    started = context.Event()
    path = shard_path(tmp_path, "codes", 0, 1)
    process = context.Process(target=_write_until_killed, args=(str(path), started))
    process.start()
    assert started.wait(60)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert not path.exists()
    codes = random_codes({"a": 10})
    np.testing.assert_array_equal(CodeStore(write(path, codes).parent)["a"], codes["a"])


def test_a_pickled_store_is_small_and_the_same(tmp_path: Path) -> None:
    codes = random_codes({str(n): 1000 for n in range(20)})
    store = CodeStore(write(tmp_path / "codes.h5", codes))
    data = pickle.dumps(store)
    assert len(data) < 2000
    np.testing.assert_array_equal(pickle.loads(data)["7"], codes["7"])


class _Sums(torch.utils.data.Dataset):
    def __init__(self, store: CodeStore) -> None:
        self.store = store
        self.ids = list(store)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> int:
        return int(self.store[self.ids[index]].sum())


def test_workers_read_the_same_codes(tmp_path: Path) -> None:
    codes = random_codes({str(n): 50 for n in range(40)})
    store = CodeStore(write(tmp_path / "codes.h5", codes))
    loader = DataLoader(_Sums(store), batch_size=None, num_workers=2)
    assert [int(value) for value in loader] == [int(array.sum()) for array in codes.values()]
