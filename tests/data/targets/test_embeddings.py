from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from mvqkd.data.targets.embeddings import (
    EmbeddingFrames,
    EmbeddingsInfo,
    EmbeddingStore,
    write_embeddings,
)
from mvqkd.data.targets.sources import StoredEmbeddings
from mvqkd.errors import UserError
from mvqkd.quantization import Quantizer
from mvqkd.storage.ragged import shard_path
from tests.storage.older import without_digests

INFO = EmbeddingsInfo(teacher="hf:x", layer=2, frame_rate=50.0, dim=6)


def test_round_trip_in_float16_and_float32(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    arrays = {name: generator.normal(size=(n, 6)) for name, n in [("a", 5), ("b", 9), ("c", 2)]}
    for dtype in ("float16", "float32"):
        folder = tmp_path / dtype
        for index, names in enumerate((["a", "b"], ["c"])):
            frames = sum(len(arrays[name]) for name in names)
            path = shard_path(folder, "embeddings", index, 2)
            with write_embeddings(path, info=INFO, total_frames=frames, dtype=dtype) as writer:
                for name in names:
                    writer.write(name, arrays[name])
        store = EmbeddingStore(folder)
        assert store.info == INFO and store.dtype == dtype and list(store) == ["a", "b", "c"]
        for name, array in arrays.items():
            np.testing.assert_array_equal(store[name], array.astype(dtype))
        blocks = list(store.blocks(frames=4))
        assert max(map(len, blocks)) <= 4 and store.total_frames == 16
        np.testing.assert_array_equal(
            np.concatenate(blocks), np.concatenate(list(arrays.values())).astype(dtype)
        )


@pytest.mark.parametrize(
    "value, dtype, message",
    [
        (float("nan"), "float32", "utterance bad: .*NaN"),
        (float("inf"), "float16", "utterance bad: .*NaN or infinity"),
        (70000.0, "float16", "utterance bad: embeddings up to 7e.04 do not fit"),
    ],
)
def test_values_that_are_not_finite_are_refused_and_named(
    tmp_path: Path, value: float, dtype: str, message: str
) -> None:
    bad = np.zeros((3, 6))
    bad[1, 2] = value
    path = tmp_path / "embeddings.h5"
    with (
        pytest.raises(UserError, match=message),
        write_embeddings(path, info=INFO, total_frames=6, dtype=dtype) as writer,
    ):
        writer.write("good", np.zeros((3, 6)))
        writer.write("bad", bad)
    assert list(tmp_path.iterdir()) == []


def test_70000_fits_into_float32(tmp_path: Path) -> None:
    path = tmp_path / "embeddings.h5"
    with write_embeddings(path, info=INFO, total_frames=1, dtype="float32") as writer:
        writer.write("a", np.full((1, 6), 70000.0))
    assert EmbeddingStore(path)["a"][0, 0] == 70000.0


def stored(path: Path, x: torch.Tensor, lens: list[int]) -> EmbeddingStore:
    """Frames x (T, 6) as utterances utt0, utt1, ... of these lengths."""
    with write_embeddings(path, info=INFO, total_frames=len(x), dtype="float32") as writer:
        for number, rows in enumerate(x.split(lens)):
            writer.write(f"utt{number}", rows.numpy())
    return EmbeddingStore(path)


def test_frames_of_chosen_utterances(tmp_path: Path) -> None:
    x = torch.arange(40.0)[:, None].expand(-1, 6)
    store = stored(tmp_path / "x.h5", x, [10, 5, 0, 20, 5])
    frames = EmbeddingFrames(store, ["utt4", "utt1", "utt2", "utt3"])
    rows = torch.cat([x[35:], x[10:15], x[15:35]])
    assert (frames.num_frames, frames.dim) == (30, 6)
    for begin, end in [(0, 30), (3, 7), (24, 26), (29, 30), (8, 8)]:
        assert torch.equal(frames.read(begin, end), rows[begin:end])
    assert frames.describe(6) == f"{tmp_path / 'x.h5'}: frame 1 of utterance utt1"
    with pytest.raises(UserError, match="nothing for utterance utt9"):
        EmbeddingFrames(store, ["utt9"])


def test_damage_is_found_where_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    stored(path, torch.zeros(6, 6), [2, 2, 2])
    with h5py.File(path, "a") as file:
        file["embeddings"][3, 0] = np.nan
    for problem in ("are not what was written", "have NaN or infinity"):
        store = EmbeddingStore(path)
        source = StoredEmbeddings(store)
        assert len(source(["utt0", "utt2"], [1, 1]).values) == 2
        for read in (store.require_finite, lambda: source(["utt0", "utt1"], [1, 1])):  # noqa: B023
            with pytest.raises(UserError, match=f"utterance utt1 {problem}"):
                read()
        if "not" in problem:
            without_digests(path)


def test_a_quantizer_learns_the_same_from_files_and_from_memory(tmp_path: Path) -> None:
    x = torch.randn(3000, 6, generator=torch.Generator().manual_seed(0))
    store = stored(tmp_path / "x.h5", x, [1000, 1, 0, 1499, 500])
    options = {"num_codebooks": 2, "codebook_size": 16, "num_steps": 20}
    streamed = Quantizer.fit(EmbeddingFrames(store, list(store)), **options)
    assert torch.equal(streamed.centers, Quantizer.fit(x, **options).centers)


def test_a_quantizer_names_the_utterance_that_is_not_finite(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    stored(path, torch.randn(100, 6), [60, 40])
    with h5py.File(path, "a") as file:
        file["embeddings"][70, 0] = float("inf")
    without_digests(path)
    store = EmbeddingStore(path)
    with pytest.raises(ValueError, match=r"x\.h5: frame 10 of utterance utt1 has NaN"):
        Quantizer.fit(EmbeddingFrames(store, list(store)), num_codebooks=2, codebook_size=16)


def test_more_shards_than_a_process_may_have_files_open(tmp_path: Path) -> None:
    program = (
        "import resource, sys\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (60, hard))\n"
        "from mvqkd.data.targets.embeddings import EmbeddingStore\n"
        "print(len(EmbeddingStore(sys.argv[1])))\n"
    )
    for index in range(70):
        path = shard_path(tmp_path, "embeddings", index, 70)
        with write_embeddings(path, info=INFO, total_frames=1) as writer:
            writer.write(f"utt{index}", np.zeros((1, 6)))
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True
    )
    assert done.stdout == "70\n", done.stderr
