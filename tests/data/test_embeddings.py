from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mvqkd.data.embeddings import EmbeddingsInfo, EmbeddingStore, write_embeddings
from mvqkd.data.ragged import shard_path
from mvqkd.errors import UserError

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
