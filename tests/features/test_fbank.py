from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import kaldi_native_fbank
import numpy as np
import pytest
import torch
from lhotse import CutSet

from mvqkd.errors import UserError
from mvqkd.features.fbank import extract
from mvqkd.features.reading import load_features, read_audio
from mvqkd.storage.jsonl import read_items


def kaldi_features(samples: np.ndarray) -> np.ndarray:
    """What sherpa-onnx computes."""
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.samp_freq = 16000
    options.frame_opts.dither = 0
    options.frame_opts.snip_edges = False
    options.mel_opts.num_bins = 80
    options.mel_opts.high_freq = -400
    fbank = kaldi_native_fbank.OnlineFbank(options)
    fbank.accept_waveform(16000, samples.tolist())
    fbank.input_finished()
    return np.stack([fbank.get_frame(i) for i in range(fbank.num_frames_ready)])


@pytest.mark.parametrize("num_samples", [16000, 16079, 16080, 4321])
def test_equals_kaldi(make_speech: Callable[..., np.ndarray], num_samples: int) -> None:
    samples = make_speech(2.0, seed=1)[:num_samples]
    ours, theirs = extract(samples), kaldi_features(samples)
    assert ours.shape == theirs.shape == ((num_samples + 80) // 160, 80)
    np.testing.assert_allclose(ours, theirs, atol=2e-3)


def test_silence_is_at_the_same_floor_as_kaldis() -> None:
    silence = np.zeros(16000, np.float32)
    np.testing.assert_allclose(extract(silence), kaldi_features(silence), atol=1e-4)


def test_audio_and_features_are_the_same_under_autocast(prepared: Path) -> None:
    for cut in CutSet.from_jsonl_lazy(prepared / "fbank/tiny_cuts_train-tiny.jsonl.gz"):
        samples = read_audio(cut)
        features = extract(samples)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            np.testing.assert_array_equal(read_audio(cut), samples)
            np.testing.assert_array_equal(extract(samples), features)


def test_stored_features_are_those_of_the_audio(prepared: Path) -> None:
    manifest = prepared / "fbank/tiny_cuts_train-tiny.jsonl.gz"
    cuts = {cut.id: cut for cut in CutSet.from_jsonl_lazy(manifest)}
    assert len(cuts) == 30
    for item in read_items(manifest):
        stored = load_features(item, manifest)
        # lilcom rounds to multiples of 2^-5.
        np.testing.assert_allclose(stored, extract(read_audio(cuts[item["id"]])), atol=2**-6 + 1e-5)
        np.testing.assert_array_equal(stored, cuts[item["id"]].load_features())


def test_speed_copies_are_resampled_audio(prepared: Path) -> None:
    manifest = prepared / "fbank/tiny_cuts_train-tiny.jsonl.gz"
    frames = {item["id"]: item["features"]["num_frames"] for item in read_items(manifest)}
    for name, num_frames in frames.items():
        if "_sp" not in name:
            assert frames[f"{name}_sp0.9"] == pytest.approx(num_frames / 0.9, abs=1)
            assert frames[f"{name}_sp1.1"] == pytest.approx(num_frames / 1.1, abs=1)


def test_errors_name_the_utterance(prepared: Path, tmp_path: Path) -> None:
    manifest = prepared / "fbank/tiny_cuts_dev-a.jsonl.gz"
    item = next(read_items(manifest))
    gone = json.loads(json.dumps(item))
    gone["features"]["storage_path"] = str(tmp_path / "feats_x/000000.lca")
    with pytest.raises(UserError, match=rf"{item['id']}, is missing\n.*compute the features"):
        load_features(gone, tmp_path / "manifest.jsonl.gz")

    damaged = json.loads(json.dumps(item))
    archive = tmp_path / "damaged.lca"
    archive.write_bytes(b"\0" * 100000)
    damaged["features"]["storage_path"] = str(archive)
    with pytest.raises(UserError, match=f"damaged.*{item['id']}|{item['id']}.*damaged"):
        load_features(damaged, manifest)

    no_audio = json.loads(json.dumps(item))
    del no_audio["features"]
    no_audio["recording"]["sources"][0]["source"] = str(tmp_path / "gone.flac")
    with pytest.raises(UserError, match=f"audio of utterance {item['id']}"):
        load_features(no_audio, manifest)
