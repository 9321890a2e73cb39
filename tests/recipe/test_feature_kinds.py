"""Spectrograms in place of filterbanks, from stage 2 to a model that knows what it receives."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mvqkd.checkpoints.files import save_checkpoint
from mvqkd.checkpoints.load import load_model
from mvqkd.data.folder import DataFolder
from mvqkd.errors import UserError
from mvqkd.evaluation.token_times import read_times
from mvqkd.features.extraction import extract
from mvqkd.features.reading import load_features
from mvqkd.recipe import build
from mvqkd.recipe.config.attention_schema import DecoderConfig
from mvqkd.recipe.config.export_schema import ExportConfig
from mvqkd.recipe.config.load import save_config
from mvqkd.recipe.config.schema import ExperimentConfig, LossConfig, ModelConfig
from mvqkd.recipe.run_folder import check_folder, features_of
from mvqkd.recipe.stages import layer_similarity
from mvqkd.recipe.stages.decode import decode_experiment
from mvqkd.recipe.stages.delays import KINDS, measure_delays
from mvqkd.recipe.stages.export import choose_targets
from mvqkd.recipe.stages.export_options import ExportInputs
from mvqkd.recipe.stages.features import compute_features
from mvqkd.recipe.stages.layer_similarity import compare_layers
from mvqkd.recognizer import Recognizer
from mvqkd.storage.files import write_json
from mvqkd.storage.jsonl import read_items
from mvqkd.teachers import load_teacher
from tests.recipe.test_layer_distillation import TEACHER, train
from tests.recipe.test_token_distillation import TOKENS, student


def compute(data: Path, kind: str, *, on_the_fly: bool = False) -> None:
    compute_features(
        DataFolder(data),
        {},
        kind=kind,  # type: ignore[arg-type]
        speed_perturb=False,
        musan=False,
        on_the_fly=on_the_fly,
        num_jobs=1,
    )


def without_features(data: Path, folder: Path) -> Path:
    """A copy that stage 2 has not come to."""
    folder.mkdir()
    for path in (path for path in data.iterdir() if path.name != "fbank"):
        (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture(scope="module")
def spectrogram(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = without_features(prepared, tmp_path_factory.mktemp("other") / "data")
    compute(data, "spectrogram")
    return data


def recurrent(**decoder: int) -> ExperimentConfig:
    config = student(replace(TOKENS, weight=0.0))
    sizes = DecoderConfig(kind="gru", dim=8, num_layers=1)
    model = replace(config.model, encoder="gru", dim=8, num_layers=1, decoder=sizes)
    return replace(config, model=model)


@pytest.mark.parametrize("on_the_fly", [False, True])
def test_cuts_have_them(
    prepared: Path, spectrogram: Path, tmp_path: Path, on_the_fly: bool
) -> None:
    data = spectrogram
    if on_the_fly:
        data = without_features(prepared, tmp_path / "data")
        compute(data, "spectrogram", on_the_fly=True)
    cuts = DataFolder(data).cuts("dev-a")
    assert features_of([cuts]) == {"kind": "spectrogram", "bins": 161}
    for item in read_items(cuts):
        assert ("features" in item) != on_the_fly
        samples, _ = soundfile.read(item["recording"]["sources"][0]["source"], dtype="float32")
        found, expected = load_features(item, cuts), extract(samples, "spectrogram")
        np.testing.assert_allclose(found, expected, atol=2**-6 + 1e-5)


@pytest.mark.parametrize("on_the_fly", [False, True])
def test_another_kind_is_refused_where_there_is_one(
    prepared: Path, spectrogram: Path, on_the_fly: bool
) -> None:
    for data, kind, there in (
        (prepared, "spectrogram", "fbank"),
        (spectrogram, "fbank", "spectro"),
    ):
        with pytest.raises(UserError, match=f"has {there}.* features, not {kind}") as error:
            compute(data, kind, on_the_fly=on_the_fly)
        assert {"data_dir", "features"} <= set(error.value.parameters)
    cuts = [DataFolder(data).cuts("dev-a") for data in (prepared, spectrogram)]
    with pytest.raises(UserError, match=r"has spectrogram features, .* fbank"):
        features_of(cuts)


def test_a_student_is_trained_on_them_and_refuses_others(
    prepared: Path, spectrogram: Path, tmp_path: Path
) -> None:
    config = recurrent()
    found = train(config, spectrogram, tmp_path, "student")
    data = json.loads((found / "data.json").read_text())
    assert data["features"] == {"kind": "spectrogram", "bins": 161}
    model = load_model(found)
    assert model.encoder.input_dim == 161

    # Files of audio are recognized, and it is a teacher of audio.
    wave = next((spectrogram / "manifests").glob("*recordings_dev-a*"))
    audio = next(read_items(wave))["sources"][0]["source"]
    recognizer = Recognizer.load(found)
    assert recognizer.features(audio).shape[1] == 161 and not recognizer.streams
    assert isinstance(recognizer.transcribe([audio])[0], str)
    teacher = load_teacher(f"mvqkd:{found}", [1])
    assert teacher(torch.randn(1, 8000) / 10, torch.tensor([8000])).layers[1].shape == (1, 11, 8)

    with pytest.raises(UserError, match=r"'spectrogram', 'bins': 161} -> {'kind': 'fbank'"):
        train(config, prepared, tmp_path, "student")
    folder = DataFolder(prepared)
    with pytest.raises(UserError, match=r"of 161 bins, .* has fbank features of 80"):
        decode_experiment(
            found, config.decoding, {"dev-a": folder.cuts("dev-a")}, folder.lang(30), device="cpu"
        )
    taught = replace(student(), distillation=student().distillation)
    taught.distillation.tokens.teacher = "mvqkd:student"
    with pytest.raises(UserError, match="receives features of 161 bins, the student of 80"):
        train(taught, prepared, tmp_path, "taught")

    # What was trained before data.json said it was trained on filterbanks.
    del data["features"], data["digest"]
    write_json(found / "data.json", data)
    with pytest.raises(UserError, match=r"'fbank', 'bins': 80} -> {'kind': 'spectrogram'"):
        check_folder(found, config, {**data, "features": {"kind": "spectrogram", "bins": 161}})
    assert check_folder(found, config, {**data, "features": {"kind": "fbank", "bins": 80}})


def untrained(config: ExperimentConfig, folder: Path) -> Path:
    """An experiment of random weights on spectrograms, as after an epoch of a step."""
    torch.manual_seed(0)
    objective = build.build_objective(config, 30, {}, 161)
    weights = objective.model.state_dict()
    description = {"description": build.describe_model(config, 30, 161)}
    progress = {"progress": {"epoch": 2, "epoch_step": 0}}
    state = {"objective": objective.state_dict(), **progress, **description}
    save_checkpoint(folder / "checkpoint-1.pt", state)
    average = {name: value.double() for name, value in weights.items()}
    averaged = {"average": average, "average_count": 1, **description}
    save_checkpoint(folder / "epoch-1.pt", {"model": weights, **averaged})
    save_checkpoint(folder / "pretrained.pt", {"model": weights, **description})
    save_config(config, folder / "config.yaml")
    (folder / "environment.json").write_text("[]")
    return folder


def test_delays_and_layers_are_measured(
    prepared: Path, spectrogram: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ExperimentConfig(model=TEACHER, loss=LossConfig(ctc_scale=0.2))
    found = untrained(config, tmp_path / "big")
    gru = untrained(recurrent(), tmp_path / "gru")
    data = DataFolder(spectrogram)
    sets = {"dev-a": data.cuts("dev-a")}
    decode_experiment(found, config.decoding, sets, data.lang(30), device="cpu")
    page = measure_delays([found], found, spectrogram, device="cpu")
    assert page.count("| big | dev-a | ") == len(KINDS) * len(config.decoding.methods)
    for kind in KINDS:
        (alignment,) = (found / "alignments").glob(f"dev-a-*-{kind}.jsonl")
        assert len(read_times(alignment)) == 4

    monkeypatch.setattr(layer_similarity, "_SECONDS", 1.0)  # a batch for each utterance
    picture = tmp_path / "layers.png"
    compare_layers([found, gru], "mvqkd:big", spectrogram, picture, device="cpu")
    measured = json.loads(picture.with_suffix(".json").read_text())
    for row in measured["big"]:  # it is its own teacher
        cosine, divergence = row["values"]
        assert cosine > 0.9 and divergence == pytest.approx(0, abs=1e-4)
    assert [row["values"][1] for row in measured["gru"]] == [None]

    shutil.rmtree(found / "alignments")
    with pytest.raises(UserError, match=r"of 161 bins, .* has fbank features of 80"):
        measure_delays([found], found, prepared, device="cpu")
    with pytest.raises(UserError, match=r"makes 25 frames a second of 161 bins, .* of 80"):
        compare_layers([found], "mvqkd:big", prepared, picture, device="cpu")


@pytest.mark.parametrize("heads", [[], ["transducer"]])
def test_devices_compute_filterbanks_alone(
    tmp_path: Path, heads: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    config = ExperimentConfig(model=ModelConfig())
    inputs = ExportInputs(
        ExportConfig(heads=heads),  # type: ignore[arg-type]
        config.decoding,
        *(tmp_path, "dev", tmp_path, tmp_path),
    )
    description = {
        "model": {"input_dim": 161, "chunk_size": [], "left_context": -1},
        "heads": ["transducer"],
    }
    if not heads:
        assert choose_targets(inputs, description, 1, 1) == []
        assert "features of 161 bins" in caplog.text
        return
    with pytest.raises(UserError, match="161 bins: sherpa-onnx computes 80 mel bins"):
        choose_targets(inputs, description, 1, 1)
