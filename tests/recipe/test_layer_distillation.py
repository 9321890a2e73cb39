"""The section `distillation.layers`, from the configuration to a trained student."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mvqkd.checkpoints.files import load_checkpoint, save_checkpoint
from mvqkd.data.folder import DataFolder
from mvqkd.distillation import AuxiliaryLayers
from mvqkd.errors import UserError
from mvqkd.models.auxiliary_branch import ProjectionBranch
from mvqkd.recipe import build
from mvqkd.recipe.build import build_student, describe_model
from mvqkd.recipe.config.layers_schema import LayersConfig
from mvqkd.recipe.config.load import LoadedConfig, load_config
from mvqkd.recipe.config.schema import (
    DataConfig,
    DistillationConfig,
    ExperimentConfig,
    LossConfig,
    ModelConfig,
    TrainingConfig,
)
from mvqkd.recipe.inputs import ExperimentInputs
from mvqkd.recipe.layer_distillation import open_layers, quarters
from mvqkd.recipe.stages.train import train_experiment
from mvqkd.training.metrics import read_metrics
from tests.data.conftest import prepare, write_part

ROOT = Path(__file__).resolve().parents[2]
SIZES: dict[str, Any] = {"feedforward_dim": 16, "predictor_dim": 16, "joiner_dim": 16}
TEACHER = ModelConfig(dim=24, num_layers=3, num_heads=4, conv_kernel=3, **SIZES)
STUDENT = ModelConfig(
    dim=16,
    num_layers=2,
    num_heads=2,
    conv_kernel=3,
    causal=True,
    chunk_size=[2],
    left_context=4,
    **SIZES,
)
LABELLED_HOURS = 0.002  # about half
LAYERS = LayersConfig(weight=1.0, teacher="mvqkd:big", future_shift=2)


def make_teacher(experiments: Path, model: ModelConfig = TEACHER, name: str = "big") -> Path:
    """An experiment with random weights."""
    torch.manual_seed(0)
    config = ExperimentConfig(model=model)
    student = build_student(config, 30)
    (experiments / name).mkdir(parents=True)
    file = experiments / name / "pretrained.pt"
    state = {"model": student.state_dict(), "description": describe_model(config, 30)}
    save_checkpoint(file, state)
    return file.parent


@pytest.fixture
def open_(tmp_path: Path) -> Callable[..., Any]:
    """Opens the section with these options, and builds the loss of a student of 2 x 16."""

    def open_(model: ModelConfig = TEACHER, query: str = "", **options: Any) -> Any:
        folder = make_teacher(tmp_path, model, f"big-{len(list(tmp_path.iterdir()))}")
        loss = replace(LAYERS, **options)
        device = torch.device("cpu")
        return open_layers("layers", loss, f"mvqkd:{folder}{query}", num_layers=2, device=device)

    return open_


def test_quarters_are_paired() -> None:
    assert quarters(16, 16) == [(4, 4), (8, 8), (12, 12), (16, 16)]
    assert quarters(16, 12) == [(4, 3), (8, 6), (12, 9), (16, 12)]
    assert quarters(6, 4) == [(2, 1), (3, 2), (5, 3), (6, 4)]
    assert quarters(6, 2) == [(3, 1), (6, 2)]
    assert quarters(2, 4) == [(1, 1), (1, 2), (2, 3), (2, 4)]
    assert quarters(12, 1) == [(12, 1)]


def test_the_section_becomes_a_loss(open_) -> None:
    opened = open_()
    loss = opened.build(16)
    assert isinstance(loss, AuxiliaryLayers)
    assert loss.pairs == [(2, 1), (3, 2)] and loss.taps == ["layers.1", "layers.2"]
    branch = loss.branches[0]
    assert branch.project.in_features == 16 and branch.dim == 24
    assert branch.attention.num_heads == 4 and branch.gap == 2
    assert branch.feedforward.expand.out_features == 96
    assert (loss.feature_weight, loss.relation_weight, loss.future_weight) == (0.01, 0.0005, 0.005)
    assert opened.source is None and opened.validates and opened.clean_features
    assert opened.description["bytes_per_hour"] == 0
    json.dumps(opened.description)


def test_pairs_and_sizes_can_be_chosen(open_) -> None:
    options = {"teacher_layer": [3, 1], "layer": [1, 2], "num_heads": 3, "feedforward_dim": 10}
    loss = open_(**options, future_weight=0.0).build(16)
    assert loss.pairs == [(3, 1), (1, 2)]
    assert loss.branches[1].attention.num_heads == 3
    assert loss.branches[1].feedforward.expand.out_features == 10
    # Nothing is predicted, and so nothing is hidden.
    assert loss.branches[0].lstm is None and loss.branches[0].gap == 0


def test_a_projection_alone_can_be_chosen(open_) -> None:
    options = {"relation_weight": 0.0, "future_weight": 0.0}
    loss = open_(branch="projection", **options).build(16)
    assert all(isinstance(branch, ProjectionBranch) for branch in loss.branches)


def test_librispeech_has_the_sizes_of_the_paper() -> None:
    encoders = {}
    for name in ("layers_teacher_960h", "streaming_160ms_960h", "streaming_layers_960h"):
        loaded = load_config(ROOT / f"egs/librispeech/conf/{name}.yaml")
        with torch.device("meta"):
            student = build_student(loaded.config, 500)
        encoders[name] = sum(p.numel() for p in student.encoder.parameters()) / 1e6
    assert encoders["layers_teacher_960h"] == pytest.approx(101, rel=0.05)
    assert encoders["streaming_160ms_960h"] == pytest.approx(25, rel=0.05)
    layers = loaded.config.distillation.layers
    pairs = list(zip(layers.teacher_layer, layers.layer, strict=True))
    assert pairs == quarters(16, loaded.config.model.num_layers)


@pytest.mark.parametrize(
    ("model", "options", "message", "remedy"),
    [
        (STUDENT, {}, "attends to chunks of 2 frames", "full context|chunk_size"),
        (TEACHER, {"teacher_layer": [4], "layer": [1]}, "4", ""),
        (TEACHER, {"num_heads": 5}, "num_heads is 5, which does not divide", "num_heads 0"),
    ],
)
def test_wrong_teachers_are_refused(open_, model, options, message, remedy) -> None:
    with pytest.raises(UserError, match=message) as error:
        open_(model, **options)
    assert not remedy or any(part in error.value.remedy for part in remedy.split("|"))


def test_a_teacher_of_chunks_and_of_full_context_is_taken_with_full_context(open_) -> None:
    both = replace(STUDENT, chunk_size=[2, -1])
    with pytest.raises(UserError, match="chunks of 2 frames"):
        open_(both)
    assert open_(both, "?chunk_size=-1").build(16).pairs == [(1, 1), (2, 2)]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("corpus")
    write_part(root, "train-tiny")
    write_part(root, "dev-a", utterances=2)
    folder = DataFolder(prepare(root, tmp_path_factory.mktemp("data"), speeds=(1.0,)))
    shutil.copytree(folder.lang(30), folder.lang(30, LABELLED_HOURS))
    return folder.root


def experiment(layers: LayersConfig, **training: Any) -> ExperimentConfig:
    return ExperimentConfig(
        data=DataConfig(
            step_duration=6,
            num_buckets=2,
            num_workers=0,
            labelled_hours=LABELLED_HOURS,
            unlabelled_ratio=1.0,
        ),
        model=STUDENT,
        loss=LossConfig(ctc_scale=0.2, warmup_steps=2),
        distillation=DistillationConfig(layers=layers),
        training=TrainingConfig(**{"num_epochs": 2, "log_interval": 1, **training}),
    )


def train(config: ExperimentConfig, data: Path, experiments: Path, name: str) -> Path:
    inputs = ExperimentInputs(LoadedConfig(config, {}), DataFolder(data), experiments)
    assert train_experiment(inputs, experiments / name, vocab_size=30, device="cpu")
    return experiments / name


def test_a_streaming_student_is_trained_with_a_teacher_beside_it(data, tmp_path) -> None:
    make_teacher(tmp_path)
    found = train(experiment(LAYERS), data, tmp_path, "student")
    lines = list(read_metrics(found / "log" / "metrics.jsonl"))
    assert all(0 < line["layers"] < 100 for line in lines) and len(lines) >= 4
    assert {line["kind"] for line in lines} == {"train", "valid"}

    # What is left is the plain student.
    plain = build_student(ExperimentConfig(model=STUDENT, loss=LossConfig(ctc_scale=0.2)), 30)
    state = load_checkpoint(found / "pretrained.pt")
    assert {name: value.shape for name, value in state["model"].items()} == {
        name: value.shape for name, value in plain.state_dict().items()
    }
    (checkpoint, *_) = sorted(found.glob("checkpoint-*.pt"))
    names = load_checkpoint(checkpoint)["objective"]
    assert any(name.startswith("distillation.layers.branches.1.lstm") for name in names)
    assert not any("teacher" in name for name in names)
    teacher = json.loads((found / "data.json").read_text())["teachers"]["layers"]
    assert teacher.startswith("mvqkd:") and "weights=" in teacher

    # Parts of the training make the whole.
    train(experiment(LAYERS, num_epochs=1), data, tmp_path, "parts")
    parts = train(experiment(LAYERS), data, tmp_path, "parts")
    whole, resumed = (load_checkpoint(folder / "epoch-2.pt")["model"] for folder in (found, parts))
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_a_teacher_that_was_trained_anew_is_another(data, tmp_path) -> None:
    folder = make_teacher(tmp_path)
    train(experiment(LAYERS, num_epochs=1), data, tmp_path, "student")
    state = load_checkpoint(folder / "pretrained.pt")
    save_checkpoint(
        folder / "pretrained.pt",
        {**state, "model": {name: value + 1 for name, value in state["model"].items()}},
    )
    with pytest.raises(UserError, match="teachers"):
        train(experiment(LAYERS), data, tmp_path, "student")


def test_with_noise_the_loader_keeps_clean_features_for_the_teacher(
    data, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(build, "build_noise", lambda *_: lambda x, utterance, epoch: x + 1)
    make_teacher(tmp_path)
    train(experiment(LAYERS, num_epochs=1), data, tmp_path, "student")


def test_a_teacher_that_is_not_trained_is_named(data, tmp_path) -> None:
    with pytest.raises(UserError, match="the teacher mvqkd:big is not trained"):
        train(experiment(LAYERS), data, tmp_path, "student")
