"""The sections `distillation.outputs` and `distillation.dual_mode`, from the configuration to a
trained student."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mvqkd.checkpoints.files import load_checkpoint
from mvqkd.distillation import DualMode, OutputDistillation
from mvqkd.errors import UserError
from mvqkd.recipe import full_context_teacher
from mvqkd.recipe.build import build_objective
from mvqkd.recipe.config.load import LoadedConfig
from mvqkd.recipe.config.outputs_schema import DualModeConfig, OutputsConfig
from mvqkd.recipe.config.rules import check_rules
from mvqkd.recipe.config.schema import DataConfig, DistillationConfig, ExperimentConfig, ModelConfig
from mvqkd.recipe.output_distillation import open_dual_mode, open_outputs
from mvqkd.training.metrics import read_metrics
from tests.recipe.test_layer_distillation import (
    LAYERS,
    STUDENT,
    TEACHER,
    data,
    experiment,
    make_teacher,
    train,
)

__all__ = ["data"]  # a fixture
OUTPUTS = OutputsConfig(weight=0.1, teacher="mvqkd:big")
DUAL = DualModeConfig(weight=0.1)


def lang(folder: Path, content: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "bpe.model").write_text(content)
    return folder


@pytest.fixture
def open_(tmp_path: Path) -> Callable[..., Any]:
    """Opens the section with these options; `tokens` are those of the student."""

    def open_(
        model: ModelConfig = TEACHER,
        query: str = "",
        tokens: str = "a",
        num_bins: int = 80,
        **options: Any,
    ):
        folder = make_teacher(tmp_path, model, f"big-{len(list(tmp_path.iterdir()))}")
        digest = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"  # of "a"
        (folder / "data.json").write_text(json.dumps({"bpe_model_sha256": digest}))
        loss = replace(OUTPUTS, **options)
        teacher = f"mvqkd:{folder}{query}"
        place = lang(tmp_path / f"lang-{len(list(tmp_path.iterdir()))}", tokens)
        cpu = torch.device("cpu")
        return open_outputs("outputs", loss, teacher, place, device=cpu, num_bins=num_bins)

    return open_


def test_the_section_becomes_a_loss(open_) -> None:
    opened = open_(target_delay=3, cells="best_path", distribution="collapsed")
    loss = opened.build(16)
    assert isinstance(loss, OutputDistillation)
    assert (loss.delay, loss.best_path, loss.collapsed, loss.weight) == (3, True, True, 0.1)
    assert opened.source is None and opened.validates and opened.clean_features
    json.dumps(opened.description)


def test_wrong_teachers_are_refused(open_, monkeypatch) -> None:
    with pytest.raises(UserError, match="whose tokens are not the student's") as error:
        open_(tokens="b")
    assert "labelled_hours" in error.value.remedy
    with pytest.raises(UserError, match="attends to chunks of 2 frames"):
        open_(STUDENT)
    assert open_(replace(STUDENT, chunk_size=[2, -1]), "?chunk_size=-1").build(16)
    with pytest.raises(UserError, match="of 80 bins, the student 25 of 161"):
        open_(num_bins=161)
    monkeypatch.setattr(full_context_teacher, "ENCODER_RATE", 12.5)
    with pytest.raises(UserError, match="makes 25 frames a second of 80 bins"):
        open_()


def test_dual_mode_becomes_a_loss_and_a_second_pass() -> None:
    section = replace(DUAL, kind="lattice", direction="symmetric", full_context_weight=0.5)
    config = ExperimentConfig(model=STUDENT, distillation=DistillationConfig(dual_mode=section))
    opened = open_dual_mode(config)
    objective = build_objective(config, 30, {"dual_mode": opened})
    loss = objective.distillation["dual_mode"]
    assert isinstance(loss, DualMode) and loss.kind == "lattice" and loss.symmetric
    assert objective.full_context_weight == 0.5
    assert build_objective(ExperimentConfig(model=STUDENT), 30, {}).full_context_weight == 0


@pytest.mark.parametrize(
    ("distillation", "options", "message", "remedy"),
    [
        ({"outputs": replace(OUTPUTS, teacher="hf:a/b")}, {}, "'hf:a/b'", "mvqkd:EXPERIMENT"),
        ({"dual_mode": DUAL}, {"model": TEACHER}, "both passes have full context", "chunk_size"),
        (
            {"dual_mode": replace(DUAL, kind="lattice", distribution="collapsed")},
            {},
            "compared by their alignments",
            "kind cells",
        ),
        (
            {"outputs": OUTPUTS, "dual_mode": DUAL},
            {"data": DataConfig(unlabelled_ratio=1.0)},
            "unlabelled_ratio is 1",
            "unlabelled_ratio 0",
        ),
    ],
)
def test_values_that_do_not_go_together(distillation, options, message, remedy) -> None:
    fields = {"model": STUDENT, "distillation": DistillationConfig(**distillation), **options}
    with pytest.raises(UserError, match=message) as error:
        check_rules(LoadedConfig(ExperimentConfig(**fields), {}))
    assert remedy in error.value.remedy


def test_students_are_trained_with_both(data, tmp_path) -> None:
    make_teacher(tmp_path)
    config = experiment(LAYERS, num_epochs=1)
    config = replace(
        config, distillation=DistillationConfig(layers=LAYERS, outputs=OUTPUTS, dual_mode=DUAL)
    )
    found = train(config, data, tmp_path, "student")
    lines = list(read_metrics(found / "log" / "metrics.jsonl"))
    names = {"layers", "layers.feature", "layers.relation", "layers.future", "outputs", "dual_mode"}
    for line in lines:
        assert names | {"pruned_full_context"} <= line.keys()
        assert all(0 < line[name] < 1000 for name in names)
    total = {"feature": 0.01, "relation": 0.0005, "future": 0.005}
    parts = sum(weight * lines[0][f"layers.{part}"] for part, weight in total.items())
    assert lines[0]["layers"] == pytest.approx(parts, rel=1e-4)
    (checkpoint, *_) = sorted(found.glob("checkpoint-*.pt"))
    names = load_checkpoint(checkpoint)["objective"]
    assert not any("outputs" in name or "dual_mode" in name for name in names)
    teachers = json.loads((found / "data.json").read_text())["teachers"]
    assert teachers["outputs"].startswith("mvqkd:") and "dual_mode" not in teachers


def test_dual_mode_needs_no_teacher(data, tmp_path) -> None:
    config = experiment(LAYERS, num_epochs=1)
    config = replace(
        config,
        data=replace(config.data, unlabelled_ratio=0.0),
        distillation=DistillationConfig(dual_mode=DUAL),
    )
    found = train(config, data, tmp_path, "student")
    assert all("dual_mode" in line for line in read_metrics(found / "log" / "metrics.jsonl"))
