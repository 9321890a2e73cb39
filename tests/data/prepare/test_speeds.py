"""Cuts that bring copies at other speeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, Recording, RecordingSet, SupervisionSegment, SupervisionSet

from mvqkd.data.folder import DataFolder
from mvqkd.data.loading.index import open_index
from mvqkd.data.prepare.fbank import manifest_cuts, store_cuts, store_features
from tests.data.prepare.manifests import run


@pytest.mark.parametrize("store", [store_features, store_cuts])
def test_copies_of_a_corpus_are_not_made_again(tmp_path: Path, store: object) -> None:
    """`x` with its copy at 0.9, `y` without any, `z_sp1.1` without its original."""
    audio = np.random.default_rng(0).standard_normal(16000).astype(np.float32) * 0.1
    recordings = []
    for name in "xyz":
        soundfile.write(tmp_path / f"{name}.wav", audio, 16000)
        recordings.append(Recording.from_file(tmp_path / f"{name}.wav"))
    cuts = CutSet.from_manifests(
        RecordingSet.from_recordings(recordings),
        SupervisionSet.from_segments(
            SupervisionSegment(r.id, r.id, 0.0, r.duration, text="A") for r in recordings
        ),
    )
    x, y, z = cuts
    (tmp_path / "in").mkdir()
    brought = [x, y, x.perturb_speed(0.9), z.perturb_speed(1.1)]
    CutSet.from_cuts(brought).to_file(tmp_path / "in/cuts_train.jsonl.gz")
    run(tmp_path / "in", tmp_path / "out", ["train"])
    data = DataFolder(tmp_path / "out")
    options = {"num_jobs": 1} if store is store_features else {}
    store(  # type: ignore[operator]
        manifest_cuts(data, "train"), data.cuts("train"), speeds=(1.0, 0.9, 1.1), **options
    )
    index = open_index(data.cuts("train"), None)
    found = dict(zip(index.ids.tolist(), index.seconds.tolist(), strict=True))
    expected = {"x": 1, "x_sp0.9": 0.9, "x_sp1.1": 1.1, "y": 1, "y_sp0.9": 0.9, "y_sp1.1": 1.1}
    assert found.keys() == {name.encode() for name in (*expected, "z_sp1.1")}
    for name, speed in expected.items():
        assert abs(found[name.encode()] - 1 / speed) < 1e-3
    assert abs(found[b"z_sp1.1"] - 1 / 1.1) < 1e-3
