"""`local/dump_codes.py`, on a few utterances of noise."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from mvqkd.data.loading.audio_cuts import AudioCuts
from mvqkd.data.loading.feature_reader import FeatureReader
from mvqkd.data.targets.codes import CodeStore
from mvqkd.errors import UserError
from mvqkd.quantization import Quantizer
from mvqkd.quantization.predictability.code_predictor import CodePredictor
from mvqkd.quantization.predictability.rate_distortion import encode_with_rate
from mvqkd.teachers import load_teacher
from tests.local.programs import contents, dump, run
from tests.storage.older import without_digests
from tests.teachers.corpus import URI, make_corpus


@pytest.fixture
def quantizer(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    metadata = {"teacher": URI, "layer": 2, "frame_rate": 50.0}
    centers = torch.randn(3, 16, 12, generator=generator)
    path = tmp_path / "quantizer.pt"
    Quantizer(torch.zeros(12), centers, metadata=metadata).save(path)
    return path


def embedded(cuts: Path, layer: int) -> dict[str, torch.Tensor]:
    """The teacher's embeddings of every utterance alone."""
    audio, teacher = AudioCuts([cuts]), load_teacher(URI, [layer])
    found = {}
    for number, name in enumerate(audio.ids):
        wave = torch.from_numpy(audio.samples(number))[None]
        found[name] = teacher(wave, torch.tensor([wave.shape[1]])).layers[layer][0]
    return found


def test_codes_are_those_of_the_quantizer_for_every_cut(
    tmp_path: Path, cuts: Path, quantizer: Path
) -> None:
    dump(cuts, quantizer, tmp_path / "codes")
    store = CodeStore(tmp_path / "codes")
    x, encoder = embedded(cuts, 2), Quantizer.load(quantizer)
    assert set(store) == set(x) and len(store) == 12
    assert store.info.quantizer_id == encoder.id and store.info.codebook_size == 16
    for name, rows in x.items():
        np.testing.assert_array_equal(store[name], encoder.encode(rows).numpy())
    store.require(ids=x, quantizer_id=encoder.id, frame_rate=50.0, num_codebooks=3)


def test_codes_are_chosen_with_the_rate_weight_that_is_asked_for(
    tmp_path: Path, cuts: Path, quantizer: Path
) -> None:
    encoder = Quantizer.load(quantizer)
    torch.manual_seed(0)
    teller = CodePredictor(80, 3, 16, 2, quantizer_id=encoder.id, energy=1.0).eval()
    teller.save(quantizer.with_suffix(".code_predictor.pt"))
    dump(cuts, quantizer, tmp_path / "codes", "--rate-distortion-weight", 0.3)
    dump(cuts, quantizer, tmp_path / "old-name", "--rate-weight", 0.3)
    assert contents(tmp_path / "old-name") == contents(tmp_path / "codes")
    store, reader = CodeStore(tmp_path / "codes"), FeatureReader([cuts])
    for name, x in embedded(cuts, 2).items():
        features = torch.from_numpy(reader[name])
        expected = encode_with_rate(encoder, teller, x, features, rate_weight=0.3)
        np.testing.assert_array_equal(store[name], expected.numpy())


def test_teachers_and_predictors_that_do_not_fit_the_quantizer_are_refused(
    tmp_path: Path, cuts: Path, quantizer: Path
) -> None:
    original = Quantizer.load(quantizer)
    path = tmp_path / "other.pt"
    for dim, changed, message in (
        (12, {"frame_rate": 25.0}, r"12 dimensions at 50\.0 Hz, .* 12 at 25\.0 Hz"),
        (5, {}, r"12 dimensions at 50\.0 Hz, .* 5 at 50\.0 Hz"),
        (12, {"teacher": "python:tests.teachers.corpus:faulty"}, "utterance c1.*NaN or infinity"),
    ):
        metadata = original.metadata | changed
        Quantizer(torch.zeros(dim), original.centers[..., :dim], metadata=metadata).save(path)
        with pytest.raises(UserError, match=message):
            dump(cuts, path, tmp_path / "none")
    CodePredictor(80, 3, 16, 2, quantizer_id="0" * 8).save(
        quantizer.with_suffix(".code_predictor.pt")
    )
    with pytest.raises(UserError, match=f"codes of quantizer 00000000, .* is {original.id}"):
        dump(cuts, quantizer, tmp_path / "none", "--rate-distortion-weight", 0.3)


def test_any_number_of_processes_writes_the_same(
    tmp_path: Path, cuts: Path, quantizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump(cuts, quantizer, tmp_path / "one")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        dump(cuts, quantizer, tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_damaged_and_foreign_codes_are_found_at_the_next_run(
    tmp_path: Path, cuts: Path, quantizer: Path
) -> None:
    output = tmp_path / "codes"
    dump(cuts, quantizer, output)
    with h5py.File(min(output.glob("*.h5")), "a") as file:
        file["codes"][3, 1] = 16
    with pytest.raises(UserError, match=r"codes of utterance .* are not what was written"):
        dump(cuts, quantizer, output)
    without_digests(min(output.glob("*.h5")))
    with pytest.raises(UserError, match="index 16 in codebooks of 16"):
        dump(cuts, quantizer, output)
    min(output.glob("*.h5")).unlink()
    dump(cuts, quantizer, output)
    with pytest.raises(UserError, match=r"is a quantizer of python:.*, not of hf:other"):
        dump(cuts, quantizer, output, "--teacher", "hf:other")
    nameless = Quantizer.load(quantizer)
    nameless.metadata = {}
    nameless.save(tmp_path / "nameless.pt")
    with pytest.raises(UserError, match="does not say which teacher"):
        dump(cuts, tmp_path / "nameless.pt", tmp_path / "none")
    (tmp_path / "damaged.pt").write_bytes(quantizer.read_bytes()[:500])
    with pytest.raises(UserError, match=r"damaged\.pt is damaged"):
        dump(cuts, tmp_path / "damaged.pt", tmp_path / "none")
    other = Quantizer.load(quantizer)
    other.centers.add_(0.1)
    Quantizer(other.mean, other.centers, metadata=other.metadata).save(tmp_path / "other.pt")
    with pytest.raises(UserError, match="is of another run"):
        dump(cuts, tmp_path / "other.pt", output)
    with pytest.raises(UserError, match="none of the 1 shards"):
        dump(cuts, quantizer, output, "--shard-hours", 5)


def test_codes_grow_by_a_part_without_those_of_the_others(
    tmp_path: Path, cuts: Path, quantizer: Path
) -> None:
    output = tmp_path / "codes"
    dump(cuts, quantizer, output)
    before = {path: path.stat().st_mtime_ns for path in output.glob("*.h5")}
    more = make_corpus(tmp_path / "more", [0.8, 0.6], name="more", seed=5)
    run(
        "dump_codes",
        *("--cuts", cuts, more, more, "--quantizer", quantizer, "--output", output),
        *("--num-workers", 0, "--shard-hours", 0.0005),
    )
    assert before.items() <= {path: path.stat().st_mtime_ns for path in output.glob("*.h5")}.items()
    assert set(CodeStore(output)) == {*AudioCuts([cuts]).ids, *AudioCuts([more]).ids}


def _dump_slowly(cuts: Path, quantizer: Path, output: Path) -> None:
    torch.set_num_threads(1)
    encode = Quantizer.encode

    def slow(self: Quantizer, x: torch.Tensor, **options: int) -> torch.Tensor:
        time.sleep(0.3)
        return encode(self, x, **options)

    Quantizer.encode = slow  # type: ignore[method-assign, assignment]
    dump(cuts, quantizer, output)


def test_a_killed_dump_goes_on_to_the_same_files(
    tmp_path: Path, cuts: Path, quantizer: Path
) -> None:
    torch.set_num_threads(1)
    dump(cuts, quantizer, tmp_path / "whole")
    output = tmp_path / "killed"
    process = multiprocessing.get_context("fork").Process(
        target=_dump_slowly, args=(cuts, quantizer, output)
    )
    process.start()
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (
        list(output.glob("codes-*")) and list(output.glob(".tmp-*"))
    ):
        time.sleep(0.01)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    done = list(output.glob("codes-*"))
    assert done and len(done) < len(contents(tmp_path / "whole"))
    times = [path.stat().st_mtime_ns for path in done]
    dump(cuts, quantizer, output)
    assert contents(output) == contents(tmp_path / "whole")
    assert [path.stat().st_mtime_ns for path in done] == times
