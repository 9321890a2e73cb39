"""From a configuration to modules: what is missing is named in the error."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mvqkd.errors import UserError
from mvqkd.losses import lattice
from mvqkd.recipe.build import build_noise, build_objective, build_student, build_transducer_loss
from mvqkd.recipe.config.load import load_config
from mvqkd.recipe.config.schema import DataConfig, ExperimentConfig, LossConfig, ModelConfig
from mvqkd.recipe.distillation import OpenedLoss
from tests.training.helpers import TapLoss

ROOT = Path(__file__).resolve().parents[2]
SMALL = ModelConfig(
    dim=16,
    num_layers=1,
    num_heads=2,
    feedforward_dim=16,
    conv_kernel=3,
    predictor_dim=16,
    joiner_dim=16,
)


def test_a_backend_that_is_not_installed_is_refused_before_training(monkeypatch):
    monkeypatch.setattr(lattice, "_available", lambda name: name != "k2")
    build_transducer_loss(LossConfig(), ModelConfig(), 10)
    with pytest.raises(UserError, match="k2 cannot be imported") as error:
        build_transducer_loss(LossConfig(backend="k2"), ModelConfig(), 10)
    assert "--loss.backend auto" in error.value.remedy


def test_sizes_that_do_not_go_together_are_refused():
    with pytest.raises(UserError, match="section model: ") as error:
        build_student(ExperimentConfig(model=ModelConfig(dim=100, num_heads=3)), 10)
    assert "--help-config" in error.value.remedy


@pytest.mark.parametrize(
    "path",
    sorted((ROOT / "egs").glob("*/conf/*.yaml")),
    ids=lambda path: f"{path.parts[-3]}/{path.stem}",
)
def test_the_student_of_every_experiment_of_every_recipe_is_built(path):
    config = load_config(path).config
    with torch.device("meta"):
        student = build_student(config, 500)
    assert student.vocab_size == 500
    assert (student.ctc is None) == (config.loss.ctc_scale == 0)


def test_distillation_leaves_the_initial_weights_as_they_are():
    config = ExperimentConfig(model=SMALL)
    widths = []

    def build(dim: int) -> TapLoss:
        torch.rand(3)  # initial weights of its own
        widths.append(dim)
        return TapLoss()

    opened = OpenedLoss(source=None, validates=False, description={}, build=build)
    alone = build_objective(config, 10, {})
    built = build_objective(config, 10, {"codes": opened, "embeddings": opened})
    assert list(built.distillation) == ["codes", "embeddings"] and widths == [16, 16]
    weights = dict(built.named_parameters())
    assert all(torch.equal(value, weights[name]) for name, value in alone.named_parameters())
    config.training.seed += 1
    other = dict(build_objective(config, 10, {}).named_parameters())
    assert not all(torch.equal(value, other[name]) for name, value in alone.named_parameters())


@pytest.mark.parametrize("name", [None, "musan_cuts.jsonl.gz"])
def test_noise_that_was_not_prepared_is_refused_with_the_command(tmp_path, name):
    config = DataConfig(musan_probability=0.5)
    with pytest.raises(UserError, match=r"no MUSAN features .*\n.*--musan yes --stop-stage 2"):
        build_noise(config, name and tmp_path / name, seed=0)
    assert build_noise(DataConfig(), None, seed=0) is None
