"""The teacher's side of batches, and the features without noise, from the loader's workers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mvqkd.data.loading.audio_cuts import AudioCuts
from mvqkd.data.loading.batch_loader import eval_loader
from mvqkd.data.targets.codes import CodesInfo, CodeStore, write_codes
from mvqkd.data.targets.sources import StoredAudio, StoredCodes
from mvqkd.errors import UserError
from mvqkd.geometry import encoder_frames
from mvqkd.storage.jsonl import read_items

CUTS = "fbank/tiny_cuts_dev-a.jsonl.gz"


@pytest.fixture
def codes(prepared: Path, tmp_path: Path) -> Path:
    """Codes of 50 Hz of every utterance of a part."""
    frames = {
        cut["id"]: 2 * encoder_frames(cut["features"]["num_frames"])
        for cut in read_items(prepared / CUTS)
    }
    info = CodesInfo("hf:one", 2, 50.0, "12345678", num_codebooks=3)
    random = np.random.default_rng(0)
    path = tmp_path / "codes.h5"
    with write_codes(path, info=info, total_frames=sum(frames.values())) as writer:
        for name, count in frames.items():
            writer.write(name, random.integers(0, 256, (count, 3), dtype=np.uint8))
    return path


@pytest.mark.parametrize("start_method", [None, "fork", "spawn"])
def test_workers_fetch_codes_and_audio(
    prepared: Path, codes: Path, start_method: str | None
) -> None:
    store, audio = CodeStore(codes), AudioCuts([prepared / CUTS])
    sources = {"codes": StoredCodes(store, delay=1), "embeddings": StoredAudio(audio)}
    batches = list(
        eval_loader(
            prepared / CUTS,
            prepared / "lang_bpe_30",
            max_duration=3.0,
            num_workers=0 if start_method is None else 2,
            start_method=start_method,
            targets=sources,
        )
    )
    assert sum(len(batch) for batch in batches) == len(audio)
    for batch in batches:
        lens = encoder_frames(batch.feature_lens).tolist()
        targets, present = batch.targets["codes"].padded(len(batch), padding=-100)
        assert present.sum(1).tolist() == [length - 1 for length in lens]
        waveforms = batch.targets["embeddings"]
        assert waveforms.student_lens == lens
        for n, name in enumerate(batch.ids):
            rows = torch.from_numpy(store[name][: 2 * (lens[n] - 1)].astype(np.int64))
            assert torch.equal(targets[n, 1 : lens[n]], rows.reshape(-1, 6))
            samples = torch.from_numpy(audio.samples(audio.ids.index(name)))
            assert torch.equal(waveforms.samples[n, : waveforms.num_samples[n]], samples)
            assert not waveforms.samples[n, waveforms.num_samples[n] :].any()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_utterance_without_codes_stops_the_loader_with_its_name(
    prepared: Path, tmp_path: Path, num_workers: int
) -> None:
    info = CodesInfo("hf:one", 2, 50.0, "12345678", num_codebooks=3)
    with write_codes(tmp_path / "codes.h5", info=info, total_frames=1) as writer:
        writer.write("somebody else", np.zeros((1, 3), np.uint8))
    batches = eval_loader(
        prepared / CUTS,
        prepared / "lang_bpe_30",
        max_duration=3.0,
        num_workers=num_workers,
        targets={"codes": StoredCodes(CodeStore(tmp_path / "codes.h5"))},
    )
    with pytest.raises(UserError, match="has nothing for utterance"):
        list(batches)
