from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mvqkd.data.loading.audio_cuts import AudioCuts
from mvqkd.errors import UserError
from mvqkd.teachers.audio import audio_batches, embed
from tests.teachers.corpus import Multiplied, Spectra, make_corpus


def test_batches_hold_every_utterance_once_within_the_limit(tmp_path: Path) -> None:
    cuts = AudioCuts([make_corpus(tmp_path, [0.5, 1.2, 0.3, 0.9, 2.5], speed=True)])
    assert len(cuts) == 10 and "c1_sp0.9" in cuts.ids
    for workers in (0, 2):
        seen = []
        for batch in audio_batches(cuts, range(10), max_duration=2.5, num_workers=workers):
            assert batch.waveforms.numel() <= 2.5 * 16000 or len(batch.numbers) == 1
            for row, number in enumerate(batch.numbers):
                length = int(batch.lens[row])
                assert length == cuts.num_samples[number]
                expected = torch.from_numpy(cuts.samples(number))
                # A loader process has one thread, and its sums another order.
                torch.testing.assert_close(
                    batch.waveforms[row, :length], expected, rtol=0, atol=1e-6
                )
                assert (batch.waveforms[row, length:] == 0).all()
            seen += batch.numbers
        assert sorted(seen) == list(range(10)) and seen[0] == 9  # the longest is first


def test_a_speed_perturbed_copy_is_read_at_its_speed(tmp_path: Path) -> None:
    cuts = AudioCuts([make_corpus(tmp_path, [0.9], speed=True)])
    assert cuts.num_samples.tolist() == [14400, 16000]
    assert len(cuts.samples(1)) == 16000


def test_samples_depend_on_seed_and_ids_alone(tmp_path: Path) -> None:
    cuts = AudioCuts([make_corpus(tmp_path, [0.1] * 30)])
    chosen = cuts.sample(5, seed=1)
    assert chosen == sorted(chosen) and len(set(chosen)) == 5
    assert chosen == cuts.sample(5, seed=1) != cuts.sample(5, seed=2)
    assert cuts.sample(0, seed=1) == cuts.sample(99, seed=1) == list(range(30))
    cuts.ids.reverse()
    assert sorted(29 - number for number in cuts.sample(5, seed=1)) == chosen


def test_embed_yields_each_utterance_as_if_alone(tmp_path: Path) -> None:
    cuts = AudioCuts([make_corpus(tmp_path, [0.5, 1.2, 0.3])])
    teacher = Spectra([1, 3]).eval()
    found = dict(embed(teacher, cuts, [0, 2], device=torch.device("cpu"), max_duration=10.0))
    assert sorted(found) == [0, 2]
    for number, layers in found.items():
        wave = torch.from_numpy(cuts.samples(number))[None]
        alone = teacher(wave, torch.tensor([wave.shape[1]]))
        for layer in (1, 3):
            assert torch.equal(layers[layer], alone.layers[layer][0])


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_embeddings_are_computed_in_the_precision_that_is_asked_for(
    tmp_path: Path, precision: str
) -> None:
    cuts = AudioCuts([make_corpus(tmp_path, [0.5])])
    cpu = torch.device("cpu")
    ((_, exact),) = embed(Spectra([1]), cuts, [0], device=cpu, max_duration=9.0)
    ((_, found),) = embed(
        Multiplied([1]), cuts, [0], device=cpu, max_duration=9.0, precision=precision
    )
    assert torch.equal(found[1], exact[1].to(getattr(torch, precision)).float())


def test_bad_audio_is_named(tmp_path: Path) -> None:
    manifest = make_corpus(tmp_path, [0.5, 0.015, 0.7])
    cuts = AudioCuts([manifest])
    cpu = torch.device("cpu")
    with pytest.raises(UserError, match="utterance c1 has 240 samples: too short"):
        list(embed(Spectra([1]), cuts, [0, 1], device=cpu, max_duration=9.0))
    (tmp_path / "cuts0.wav").unlink()
    for workers in (0, 1):
        with pytest.raises(UserError, match="utterance c0 cannot be read"):
            list(audio_batches(cuts, [0], max_duration=9.0, num_workers=workers))
    assert AudioCuts([manifest, manifest]).ids == cuts.ids  # named twice, read once
    again = make_corpus(tmp_path, [0.3], name="copy")
    with pytest.raises(UserError, match="c0 is in two of the manifests"):
        AudioCuts([manifest, again])


def test_splits_are_distinguished_by_all_of_their_names(tmp_path: Path) -> None:
    paths = []
    for number, part in enumerate(("train-1.5h", "train-1.0h")):
        manifest = make_corpus(tmp_path / part, [0.5], name=f"{number}", seed=number)
        paths.append(manifest.rename(tmp_path / f"x_cuts_{part}.jsonl.gz"))
    assert AudioCuts(paths).splits == {"train-1.5h": range(1), "train-1.0h": range(1, 2)}
    assert AudioCuts(paths[1:]).splits == {"train-1.0h": range(1)}
    plain = tmp_path / "x_cuts_dev.a.jsonl"
    plain.write_bytes(gzip.decompress(paths[0].read_bytes()))
    assert list(AudioCuts([plain]).splits) == ["dev.a"]


def test_several_manifests_are_numbered_through(tmp_path: Path) -> None:
    first = make_corpus(tmp_path, [0.5, 0.6])
    second = make_corpus(tmp_path, [0.3], name="others", seed=1)
    cuts = AudioCuts([first, second])
    assert list(cuts.splits.values()) == [range(2), range(2, 3)]
    assert cuts.ids == ["c0", "c1", "o0"] and cuts.text(1) == "ab ba"
    samples, _ = soundfile.read(tmp_path / "others0.wav", dtype="float32")
    np.testing.assert_array_equal(cuts.samples(2), samples)


@pytest.mark.parametrize("left", [100, 7000])
def test_audio_that_has_become_shorter_is_refused(tmp_path: Path, left: int) -> None:
    cuts = AudioCuts([make_corpus(tmp_path, [0.5])])
    (path,) = tmp_path.glob("*.wav")
    samples, rate = soundfile.read(path, dtype="float32")
    soundfile.write(path, samples[:left], rate, subtype="FLOAT")
    with pytest.raises(UserError, match="utterance c0"):
        cuts.samples(0)
