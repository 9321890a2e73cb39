"""Targets of student frames from stored teacher frames: ratios, delays, lengths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from mvqkd.data.targets.codes import CodesInfo, CodeStore, write_codes
from mvqkd.data.targets.embeddings import EmbeddingsInfo, EmbeddingStore, write_embeddings
from mvqkd.data.targets.frame_targets import pack
from mvqkd.data.targets.sources import StoredCodes, StoredEmbeddings
from mvqkd.data.targets.teacher_frames import Pairing
from mvqkd.errors import UserError


def code_store(path: Path, lengths: dict[str, int], rate: float = 50.0) -> CodeStore:
    random = np.random.default_rng(0)
    info = CodesInfo("hf:one", 2, rate, "12345678", num_codebooks=4)
    with write_codes(path, info=info, total_frames=sum(lengths.values())) as writer:
        for name, count in lengths.items():
            writer.write(name, random.integers(0, 256, (count, 4), dtype=np.uint8))
    return CodeStore(path)


@pytest.mark.parametrize("ratio", [1, 2, 3])
@pytest.mark.parametrize("delay", [0, 1, 4])
def test_targets_follow_their_definition(tmp_path: Path, ratio: int, delay: int) -> None:
    lengths = {"short": 5 * ratio, "exact": 9 * ratio, "long": 9 * ratio + 2, "less": 9 * ratio - 1}
    store = code_store(tmp_path / "codes.h5", lengths, rate=25.0 * ratio)
    lens = [5, 9, 9, 9]
    source = StoredCodes(store, delay=delay)
    assert source.pairing.ratio == ratio
    targets, present = source(list(lengths), lens).padded(4, padding=-100)
    assert targets.shape == (4, 9, 4 * ratio) and targets.dtype == torch.int64
    for n, (name, length) in enumerate(zip(lengths, lens, strict=True)):
        codes = store[name]
        for t in range(9):
            first = ratio * (t - delay)
            inside = t < length and first >= 0 and first + ratio <= len(codes)
            assert bool(present[n, t]) == inside
            for r in range(ratio):
                expected = codes[first + r].tolist() if inside else [-100] * 4
                assert targets[n, t, 4 * r : 4 * r + 4].tolist() == expected


def test_embeddings_keep_the_type_of_their_file(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float16)
    path = tmp_path / "embeddings.h5"
    info = EmbeddingsInfo("hf:one", 2, 50.0, 3)
    with write_embeddings(path, info=info, total_frames=8) as writer:
        writer.write("a", rows.astype(np.float32))
    targets = StoredEmbeddings(EmbeddingStore(path))(["a"], [4])
    assert targets.values.dtype == torch.float16 and targets.num_frames == 4
    assert_close(targets.values, torch.from_numpy(rows.reshape(4, 6)))


def test_lengths_that_differ_too_much_are_refused(tmp_path: Path) -> None:
    store = code_store(tmp_path / "codes.h5", {"a": 22, "b": 14})
    source = StoredCodes(store)
    source(["a", "b"], [10, 10])
    with pytest.raises(UserError, match="utterance b: 14 teacher frames"):
        source(["a", "b"], [10, 11])
    rows = [torch.zeros(22, 4)]
    with pytest.raises(UserError, match="utterance a"):
        pack(["a"], rows, [10], pairing=Pairing(2), tolerance=0, source="x")


def test_a_delay_longer_than_the_utterance_leaves_no_targets(tmp_path: Path) -> None:
    store = code_store(tmp_path / "codes.h5", {"a": 4})
    targets = StoredCodes(store, delay=5)(["a"], [2])
    assert len(targets.values) == 0 and targets.num_frames == 2
