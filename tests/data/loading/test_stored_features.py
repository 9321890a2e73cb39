"""Stored features are verified where there is a checksum, and are those that lhotse reads."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lhotse.serialization import deserialize_item

from mvqkd.data.folder import DataFolder
from mvqkd.errors import UserError
from mvqkd.features.reading import CHECKSUM, load_features
from mvqkd.storage.jsonl import read_items


@pytest.fixture
def cuts(prepared: Path) -> Path:
    return DataFolder(prepared).cuts("train-tiny")


def test_features_are_those_that_lhotse_reads(cuts: Path) -> None:
    for item in read_items(cuts):
        expected = deserialize_item(deepcopy(item)).load_features()
        np.testing.assert_array_equal(load_features(deepcopy(item), cuts), expected)
        assert item["custom"].pop(CHECKSUM) > 0  # as an earlier version wrote it
        np.testing.assert_array_equal(load_features(item, cuts), expected)


def test_a_part_of_a_cut_has_a_part_of_its_features(cuts: Path) -> None:
    item = next(item for item in read_items(cuts) if item["duration"] > 0.8)
    whole = load_features(deepcopy(item), cuts)
    part = deserialize_item(item).truncate(duration=0.5)
    assert CHECKSUM in part.custom
    np.testing.assert_array_equal(load_features(part.to_dict(), cuts), whole[:50])


@pytest.mark.parametrize("place", [0, 7, 500, -1])
def test_a_flipped_bit_is_named(cuts: Path, tmp_path: Path, place: int) -> None:
    item = _moved(next(iter(read_items(cuts))), tmp_path)
    path = Path(item["features"]["storage_path"])
    whole = bytearray(path.read_bytes())
    begin, *sizes = map(int, item["features"]["storage_key"].split(","))
    whole[begin + place % sum(sizes)] ^= 16
    path.write_bytes(whole)
    with pytest.raises(UserError, match=f"{path}, the features of utterance .*, is damaged"):
        load_features(item, cuts)


def _moved(item: dict[str, Any], folder: Path) -> dict[str, Any]:
    path = Path(item["features"]["storage_path"])
    (folder / path.name).write_bytes(path.read_bytes())
    return {**item, "features": {**item["features"], "storage_path": str(folder / path.name)}}
