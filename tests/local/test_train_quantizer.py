"""`local/train_quantizer.py`, and what comes of its quantizers, on a few utterances of noise."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from mvqkd.data.loading.feature_reader import FeatureReader
from mvqkd.data.targets.codes import CodeStore
from mvqkd.data.targets.embeddings import EmbeddingsInfo, EmbeddingStore, write_embeddings
from mvqkd.errors import UserError
from mvqkd.quantization import Quantizer
from mvqkd.quantization.predictability.code_predictor import CodePredictor
from mvqkd.recipe.stages.quantizer import split
from tests.local.programs import dump, extract, run
from tests.storage.older import without_digests


def test_from_embeddings_to_a_report_on_storage(
    tmp_path: Path, cuts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extract(cuts, tmp_path / "out", "--num-utterances", 0)
    options = ["--embeddings", tmp_path / "out" / "layer-3", "--output", tmp_path / "q.pt"]
    options += ["--num-codebooks", 2, "--codebook-size", 16, "--num-steps", 2, "--held-out", 0.2]
    run("train_quantizer", *options, "--cuts", cuts, "--predictor-steps", 2)
    report = json.loads((tmp_path / "q.json").read_text())
    predicted = report["predictability"]
    assert len(predicted["captured"]) == 2 and predicted["reconstruction_error"] > 0
    text = (tmp_path / "q.md").read_text()
    assert f"{predicted['captured'][1]:.2f} |" in text
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
        run("train_quantizer", *options, "--cuts", cuts, "--predictor-steps", 3)
    assert [row["rate_weight"] for row in report["tradeoff"]] == [0, 0.001, 0.003, 0.01, 0.03]
    nearest = report["tradeoff"][0]
    assert nearest["relative_error"] == pytest.approx(report["held_out"]["relative_error"])
    assert nearest["captured"] == pytest.approx(np.mean(predicted["captured"]))
    assert f"| 0.03 | {report['tradeoff'][4]['relative_error']:.4f} |" in text

    dump(cuts, tmp_path / "q.pt", tmp_path / "codes", "--shard-hours", 1)
    rate = ("--rate-distortion-weight", 0.3)
    dump(cuts, tmp_path / "q.pt", tmp_path / "told", "--shard-hours", 1, *rate)
    told, codes = CodeStore(tmp_path / "told"), CodeStore(tmp_path / "codes")
    assert told.info.rate_weight == 0.3 and codes.info.rate_weight == 0
    assert list(told) == list(codes)
    assert any((told[name] != codes[name]).any() for name in codes)
    codes.require(rate_weight=0.0)
    with pytest.raises(UserError, match=r"rate_weight .*0\.3"):
        told.require(rate_weight=0.0)
    (tmp_path / "q.code_predictor.pt").rename(tmp_path / "other.code_predictor.pt")
    with pytest.raises(UserError, match=r"q\.code_predictor\.pt, .* is missing"):
        dump(cuts, tmp_path / "q.pt", tmp_path / "none", *rate)
    with pytest.raises(UserError, match="the rate-distortion weight is -1"):
        dump(cuts, tmp_path / "q.pt", tmp_path / "none", "--rate-distortion-weight", -1)
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
def test_a_quantizer_is_trained_and_measured_on_a_gpu(tmp_path: Path, cuts: Path) -> None:
    extract(cuts, tmp_path / "out", "--num-utterances", 0)
    run(
        "train_quantizer",
        *("--embeddings", tmp_path / "out" / "layer-3", "--output", tmp_path / "q.pt"),
        *("--num-codebooks", 2, "--codebook-size", 16, "--num-steps", 2, "--predictor-steps", 2),
        *("--held-out", 0.2, "--cuts", cuts, "--device", "cuda"),
    )
    assert len(json.loads((tmp_path / "q.json").read_text())["tradeoff"]) == 5


def test_the_predictor_receives_utterances_spread_over_those_trained_on(
    tmp_path: Path, cuts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract(cuts, tmp_path / "out", "--num-utterances", 0)
    folder = tmp_path / "out" / "layer-3"
    monkeypatch.setattr("mvqkd.recipe.stages.quantizer._PROBED", 4)
    run(
        "train_quantizer",
        *("--embeddings", folder, "--output", tmp_path / "q.pt", "--cuts", cuts),
        *("--num-codebooks", 2, "--codebook-size", 16, "--num-steps", 2, "--predictor-steps", 2),
        *("--held-out", 0.2),
    )
    store, reader = EmbeddingStore(folder), FeatureReader([cuts])
    some = split(list(store), 0.2, 0)[0][::3]
    assert len(some) in (3, 4)
    encode = Quantizer.load(tmp_path / "q.pt").encode
    expected = CodePredictor.fit(
        [torch.from_numpy(reader[name]) for name in some],
        [encode(torch.from_numpy(store[name].astype(np.float32))) for name in some],
        codebook_size=16,
        num_steps=2,
    ).state_dict()
    found = CodePredictor.load(tmp_path / "q.code_predictor.pt").state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_damaged_embeddings_are_named_before_training(tmp_path: Path, cuts: Path) -> None:
    extract(cuts, tmp_path / "out", "--num-utterances", 0)
    folder = tmp_path / "out" / "layer-3"
    with h5py.File(max(folder.glob("*.h5")), "a") as file:
        file["embeddings"][0, 0] = np.nan
    with pytest.raises(UserError, match=r"embeddings of utterance .* are not what was written"):
        run("train_quantizer", "--embeddings", folder, "--output", tmp_path / "q.pt")
    without_digests(max(folder.glob("*.h5")))
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

    with pytest.raises(UserError, match="is not trained"):
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
    ids = [f"{n}{speed}" for n in range(20) for speed in ("", "_sp0.9", "_sp1.1")]
    train, held_out = split(ids, 0.1, 0)
    assert sorted(train + held_out) == sorted(ids) and 6 <= len(held_out) <= 8
    assert not {name.split("_")[0] for name in train} & {name.split("_")[0] for name in held_out}
    ids = [f"rec_speaker{n}_0001" for n in range(200)]  # nothing of speed in these
    train, held_out = split(ids, 0.1, 0)
    assert len(train) == 180 and len(held_out) == 20
    assert set(held_out) != set(split(ids, 0.1, 1)[1])


def test_a_few_dimensions_that_outweigh_all_others_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    random = np.random.default_rng(0)
    info = EmbeddingsInfo("hf:x", 2, 50.0, 6, first_frame=0.0)
    with write_embeddings(tmp_path / "x.h5", info=info, total_frames=2000) as writer:
        for n in range(20):
            rows = random.standard_normal((100, 6))
            rows[:, :2] *= 100
            writer.write(f"u{n}", rows)
    options = ["--embeddings", tmp_path / "x.h5", "--num-codebooks", 2, "--codebook-size", 16]
    options += ["--num-steps", 20, "--held-out", 0.2]
    for weighting, warned in (("none", True), ("deviation", False)):
        caplog.clear()
        output = tmp_path / f"{weighting}.pt"
        run("train_quantizer", *options, "--output", output, "--weighting", weighting)
        assert ("2 of the 6 dimensions of the embeddings have 100 %" in caplog.text) == warned
        held_out = json.loads(output.with_suffix(".json").read_text())["held_out"]
        assert f"median | {held_out['median_error']:.4f} |" in output.with_suffix(".md").read_text()
    assert Quantizer.load(tmp_path / "deviation.pt").scales is not None
