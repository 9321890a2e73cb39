"""The programs from audio to codes, on a few utterances of noise."""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import signal
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from mvqkd.data.audio_cuts import AudioCuts
from mvqkd.data.codes import CodeStore
from mvqkd.data.embeddings import EmbeddingStore
from mvqkd.data.feature_reader import FeatureReader
from mvqkd.errors import UserError
from mvqkd.quantization import Quantizer
from mvqkd.quantization.predictable import encode_predictably
from mvqkd.quantization.probe import CodeProbe
from mvqkd.teachers import load_teacher
from tests.local.programs import LOCAL, run
from tests.teachers.corpus import URI, make_corpus


@pytest.fixture
def quantizer(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    metadata = {"teacher": URI, "layer": 2, "frame_rate": 50.0}
    centers = torch.randn(3, 16, 12, generator=generator)
    path = tmp_path / "quantizer.pt"
    Quantizer(torch.zeros(12), centers, metadata=metadata).save(path)
    return path


def extract(cuts: Path, output: Path, *options: object, teacher: str = URI) -> None:
    run(
        "extract_embeddings",
        *("--cuts", cuts, "--teacher", teacher, "--output", output, "--num-workers", 0),
        *("--layers", 1, 3, "--shard-hours", 0.001, *options),
    )


def dump(cuts: Path, quantizer: Path, output: Path, *options: object) -> None:
    run(
        "dump_codes",
        *("--cuts", cuts, "--quantizer", quantizer, "--output", output, "--num-workers", 0),
        *("--shard-hours", 0.0005, *options),
    )


def embedded(cuts: Path, layer: int) -> dict[str, torch.Tensor]:
    """The teacher's embeddings of every utterance alone."""
    audio, teacher = AudioCuts([cuts]), load_teacher(URI, [layer])
    found = {}
    for number, name in enumerate(audio.ids):
        wave = torch.from_numpy(audio.samples(number))[None]
        found[name] = teacher(wave, torch.tensor([wave.shape[1]])).layers[layer][0]
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.h5"))}


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
    with pytest.raises(UserError, match="another --output"):
        extract(cuts, tmp_path / "out", "--num-utterances", counts[1])
    assert contents(tmp_path / "out" / "layer-3") == before


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
    teller = CodeProbe(80, 3, 16, 2, quantizer_id=encoder.id, energy=1.0).eval()
    teller.save(quantizer.with_suffix(".probe.pt"))
    dump(cuts, quantizer, tmp_path / "codes", "--rate-weight", 0.3)
    store, reader = CodeStore(tmp_path / "codes"), FeatureReader([cuts])
    for name, x in embedded(cuts, 2).items():
        features = torch.from_numpy(reader[name])
        expected = encode_predictably(encoder, teller, x, features, rate_weight=0.3)
        np.testing.assert_array_equal(store[name], expected.numpy())


def test_teachers_and_probes_that_do_not_fit_the_quantizer_are_refused(
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
    CodeProbe(80, 3, 16, 2, quantizer_id="0" * 8).save(quantizer.with_suffix(".probe.pt"))
    with pytest.raises(UserError, match=f"codes of quantizer 00000000, .* is {original.id}"):
        dump(cuts, quantizer, tmp_path / "none", "--rate-weight", 0.3)


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


def test_from_embeddings_to_a_report_on_storage(
    tmp_path: Path, cuts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extract(cuts, tmp_path / "out", "--num-utterances", 0)
    options = ["--embeddings", tmp_path / "out" / "layer-3", "--output", tmp_path / "q.pt"]
    options += ["--num-codebooks", 2, "--codebook-size", 16, "--num-steps", 2, "--held-out", 0.2]
    run("train_quantizer", *options, "--cuts", cuts, "--probe-steps", 2)
    report = json.loads((tmp_path / "q.json").read_text())
    probed = report["predictability"]
    assert len(probed["captured"]) == 2 and probed["reconstruction_error"] > 0
    text = (tmp_path / "q.md").read_text()
    assert f"{probed['captured'][1]:.2f} |" in text
    quantizer = Quantizer.load(tmp_path / "q.pt")
    assert report["id"] == quantizer.id and quantizer.metadata["layer"] == 3
    assert 0 < report["held_out"]["relative_error"] < 1
    assert len(report["held_out"]["entropy"]) == 2
    assert f"# Quantizer {quantizer.id}" in (tmp_path / "q.md").read_text()
    written = (tmp_path / "q.pt").stat().st_mtime_ns
    run("train_quantizer", *options)
    assert (tmp_path / "q.pt").stat().st_mtime_ns == written
    with pytest.raises(UserError, match="with other options"):
        run("train_quantizer", *options, "--seed", 1)

    before = (tmp_path / "q.pt").read_bytes()
    (tmp_path / "q.json").rename(tmp_path / "q.json.away")
    with pytest.raises(UserError, match="with other options"):  # nor without its report
        run("train_quantizer", *options, "--seed", 1)
    assert (tmp_path / "q.pt").read_bytes() == before
    # It stays what codes and students know, and is measured again.
    run("train_quantizer", *options)
    assert (tmp_path / "q.pt").read_bytes() == before
    again = json.loads((tmp_path / "q.json").read_text())
    assert (again["id"], again["held_out"]) == (report["id"], report["held_out"])
    assert "report was lost" in (tmp_path / "q.md").read_text()
    (tmp_path / "q.json.away").rename(tmp_path / "q.json")

    with pytest.raises(UserError, match="trained for 2 steps, not 3"):
        run("train_quantizer", *options, "--cuts", cuts, "--probe-steps", 3)
    assert [row["rate_weight"] for row in report["tradeoff"]] == [0, 0.001, 0.003, 0.01, 0.03]
    nearest = report["tradeoff"][0]
    assert nearest["relative_error"] == pytest.approx(report["held_out"]["relative_error"])
    assert nearest["captured"] == pytest.approx(np.mean(probed["captured"]))
    assert f"| 0.03 | {report['tradeoff'][4]['relative_error']:.4f} |" in text

    dump(cuts, tmp_path / "q.pt", tmp_path / "codes", "--shard-hours", 1)
    dump(cuts, tmp_path / "q.pt", tmp_path / "told", "--shard-hours", 1, "--rate-weight", 0.3)
    told, codes = CodeStore(tmp_path / "told"), CodeStore(tmp_path / "codes")
    assert told.info.rate_weight == 0.3 and codes.info.rate_weight == 0
    assert list(told) == list(codes)
    assert any((told[name] != codes[name]).any() for name in codes)
    codes.require(rate_weight=0.0)
    with pytest.raises(UserError, match=r"rate_weight .*0\.3"):
        told.require(rate_weight=0.0)
    (tmp_path / "q.probe.pt").rename(tmp_path / "other.probe.pt")
    with pytest.raises(UserError, match=r"q\.probe\.pt, .* is missing"):
        dump(cuts, tmp_path / "q.pt", tmp_path / "none", "--rate-weight", 0.3)
    with pytest.raises(UserError, match="--rate-weight is -1"):
        dump(cuts, tmp_path / "q.pt", tmp_path / "none", "--rate-weight", -1)
    capsys.readouterr()
    run(
        "storage_report",
        *("--embeddings", tmp_path / "out" / "layer-3", "--codes", tmp_path / "codes"),
    )
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines() if "|" in line]
    table = {row[1].strip(): row for row in rows[2:]}
    assert "computed" in table["embeddings, float32"][5]
    assert float(table["embeddings, float32"][2]) == pytest.approx(50 * 3600 * 12 * 4 / 1e6)
    assert "h of files" in table["embeddings, float16"][5]
    size = sum(path.stat().st_size for path in (tmp_path / "codes").glob("*.h5"))
    hours = CodeStore(tmp_path / "codes").total_frames / 50 / 3600
    assert float(table["codes, 2 codebooks"][2]) == pytest.approx(size / hours / 1e6, abs=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_quantizer_is_trained_and_probed_on_a_gpu(tmp_path: Path, cuts: Path) -> None:
    extract(cuts, tmp_path / "out", "--num-utterances", 0)
    run(
        "train_quantizer",
        *("--embeddings", tmp_path / "out" / "layer-3", "--output", tmp_path / "q.pt"),
        *("--num-codebooks", 2, "--codebook-size", 16, "--num-steps", 2, "--probe-steps", 2),
        *("--held-out", 0.2, "--cuts", cuts, "--device", "cuda"),
    )
    assert len(json.loads((tmp_path / "q.json").read_text())["tradeoff"]) == 5


def test_the_probe_hears_utterances_spread_over_those_trained_on(
    tmp_path: Path, cuts: Path
) -> None:
    extract(cuts, tmp_path / "out", "--num-utterances", 0)
    folder = tmp_path / "out" / "layer-3"
    run(
        "train_quantizer",
        *("--embeddings", folder, "--output", tmp_path / "q.pt", "--cuts", cuts),
        *("--num-codebooks", 2, "--codebook-size", 16, "--num-steps", 2, "--probe-steps", 2),
        *("--held-out", 0.2),
        _PROBED=4,
    )
    split = runpy.run_path(str(LOCAL / "train_quantizer.py"))["split"]
    store, reader = EmbeddingStore(folder), FeatureReader([cuts])
    some = split(list(store), 0.2, 0)[0][::3]
    assert len(some) in (3, 4)
    encode = Quantizer.load(tmp_path / "q.pt").encode
    expected = CodeProbe.fit(
        [torch.from_numpy(reader[name]) for name in some],
        [encode(torch.from_numpy(store[name].astype(np.float32))) for name in some],
        codebook_size=16,
        num_steps=2,
    ).state_dict()
    found = CodeProbe.load(tmp_path / "q.probe.pt").state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_damaged_embeddings_are_named_before_training(tmp_path: Path, cuts: Path) -> None:
    extract(cuts, tmp_path / "out", "--num-utterances", 0)
    folder = tmp_path / "out" / "layer-3"
    with h5py.File(max(folder.glob("*.h5")), "a") as file:
        file["embeddings"][0, 0] = np.nan
    with pytest.raises(UserError, match=r"the embeddings of utterance c\d.* have NaN"):
        run("train_quantizer", "--embeddings", folder, "--output", tmp_path / "q.pt")


def test_a_quantizer_made_elsewhere_is_measured_and_kept(
    tmp_path: Path, cuts: Path, caplog: pytest.LogCaptureFixture
) -> None:
    extract(cuts, tmp_path / "out", "--num-utterances", 0)
    options = ["--embeddings", tmp_path / "out" / "layer-3", "--held-out", 0.2]
    small = ["--num-codebooks", 2, "--codebook-size", 16]
    run("train_quantizer", *options, *small, "--num-steps", 2, "--output", tmp_path / "q.pt")
    trained = Quantizer.load(tmp_path / "q.pt")
    error = json.loads((tmp_path / "q.json").read_text())["held_out"]["relative_error"]

    run(
        "export_quantizer",
        *("--quantizer", tmp_path / "q.pt", "--embeddings", tmp_path / "out" / "layer-3"),
        *("--output", tmp_path / "icefall.pt", "--num-steps", 2),
    )
    for source in ("q.pt", "icefall.pt"):
        output = tmp_path / f"imported-{source}"
        command = [*options, *small, "--import", tmp_path / source, "--output", output]
        run("train_quantizer", *command)
        imported = Quantizer.load(output)
        assert imported.id == trained.id and imported.metadata["layer"] == 3
        report = json.loads(output.with_suffix(".json").read_text())
        # A state dict has its codebooks' means in another place, where the search begins elsewhere.
        assert report["held_out"]["relative_error"] == pytest.approx(error, rel=0.05)
        assert "| imported | from a file" in output.with_suffix(".md").read_text()
        run("train_quantizer", *command)  # kept
        dump(cuts, output, tmp_path / f"codes-{source}", "--shard-hours", 1)
    with pytest.raises(UserError, match="with other options"):
        run("train_quantizer", *command[:-3], tmp_path / "q.pt", *command[-2:])

    with pytest.raises(UserError, match="trains nothing"):
        run("train_quantizer", *command, "--num-steps", 5)
    output = ["--output", tmp_path / "other.pt"]
    with pytest.raises(UserError, match="of num_codebooks 2,"):
        run("train_quantizer", *options, "--import", tmp_path / "icefall.pt", *output)
    other = Quantizer(torch.zeros(5), torch.randn(2, 16, 5))
    other.save(tmp_path / "dim.pt")
    with pytest.raises(UserError, match="of dim 5,"):
        run("train_quantizer", *options, *small, "--import", tmp_path / "dim.pt", *output)
    foreign = Quantizer(torch.full((trained.dim,), 90.0), torch.randn(2, 16, trained.dim))
    foreign.save(tmp_path / "foreign.pt")
    with pytest.raises(UserError, match="worse than their mean"):
        run("train_quantizer", *options, *small, "--import", tmp_path / "foreign.pt", *output)
    (tmp_path / "text.pt").write_text("no tensors")
    with pytest.raises(UserError, match=r"text\.pt"):
        run("train_quantizer", *options, *small, "--import", tmp_path / "text.pt", *output)
    with pytest.raises(UserError, match="is missing"):
        run("train_quantizer", *options, *small, "--import", tmp_path / "none.pt", *output)
    assert not (tmp_path / "other.pt").exists()


def test_held_out_utterances_are_not_trained_on_at_another_speed() -> None:
    split = runpy.run_path(str(LOCAL / "train_quantizer.py"))["split"]
    ids = [f"{n}{speed}" for n in range(20) for speed in ("", "_sp0.9", "_sp1.1")]
    train, held_out = split(ids, 0.1, 0)
    assert sorted(train + held_out) == sorted(ids) and 6 <= len(held_out) <= 8
    assert not {name.split("_")[0] for name in train} & {name.split("_")[0] for name in held_out}
    ids = [f"rec_speaker{n}_0001" for n in range(200)]  # nothing of speed in these
    train, held_out = split(ids, 0.1, 0)
    assert len(train) == 180 and len(held_out) == 20
    assert set(held_out) != set(split(ids, 0.1, 1)[1])
