"""`local/extract_embeddings.py`, on a few utterances of noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mvqkd.data.loading.audio_cuts import AudioCuts
from mvqkd.data.targets.embeddings import EmbeddingStore
from mvqkd.errors import UserError
from mvqkd.teachers import load_teacher
from tests.local.programs import contents, extract
from tests.teachers.corpus import URI


def test_embeddings_of_a_sample_are_those_of_the_teacher(tmp_path: Path, cuts: Path) -> None:
    extract(cuts, tmp_path / "out", "--num-utterances", 7, "--dtype", "float32")
    audio = AudioCuts([cuts])
    teacher = load_teacher(URI, [1, 3])
    for layer in (1, 3):
        folder = tmp_path / "out" / f"layer-{layer}"
        store = EmbeddingStore(folder)
        assert len(store) == 7 and len(list(folder.glob("*.h5"))) > 1
        assert (store.info.teacher, store.info.layer, store.info.dim) == (URI, layer, 12)
        for name in store:
            wave = torch.from_numpy(audio.samples(audio.ids.index(name)))[None]
            expected = teacher(wave, torch.tensor([wave.shape[1]])).layers[layer][0]
            np.testing.assert_array_equal(store[name], expected.numpy())
    before = contents(tmp_path / "out" / "layer-1")
    (tmp_path / "out" / "layer-1" / min(before)).unlink()
    extract(cuts, tmp_path / "out", "--num-utterances", 7, "--dtype", "float32")
    assert contents(tmp_path / "out" / "layer-1") == before
    with pytest.raises(UserError, match="another teacher or other utterances"):
        extract(cuts, tmp_path / "out", "--num-utterances", 7, "--dtype", "float16")


def test_embeddings_that_are_not_finite_are_refused(tmp_path: Path, cuts: Path) -> None:
    with pytest.raises(UserError, match=r"utterance c1(_sp0\.9)?: .* NaN or infinity"):
        extract(cuts, tmp_path / "out", teacher="python:tests.teachers.corpus:faulty")
    assert not list((tmp_path / "out" / "layer-1").glob("*-00000-of-*"))


@pytest.mark.parametrize("counts", [(3, 0), (0, 3)])
def test_a_sample_and_all_are_not_extracted_into_one_folder(
    tmp_path: Path, cuts: Path, counts: tuple[int, int]
) -> None:
    extract(cuts, tmp_path / "out", "--num-utterances", counts[0])
    before = contents(tmp_path / "out" / "layer-3")
    with pytest.raises(UserError, match="or name another folder"):
        extract(cuts, tmp_path / "out", "--num-utterances", counts[1])
    assert contents(tmp_path / "out" / "layer-3") == before
