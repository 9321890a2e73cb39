"""Delays that leave no targets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mvqkd.data.folder import DataFolder
from mvqkd.errors import UserError
from mvqkd.recipe.config.layers_schema import LayersConfig
from mvqkd.recipe.config.load import LoadedConfig
from mvqkd.recipe.config.outputs_schema import OutputsConfig
from mvqkd.recipe.config.schema import DistillationConfig, ExperimentConfig
from mvqkd.recipe.delays import check_delays
from mvqkd.recipe.inputs import ExperimentInputs
from mvqkd.recipe.opened_losses import open_losses
from tests.teachers.corpus import make_corpus

OUTPUTS = OutputsConfig(weight=0.1, teacher="mvqkd:big")
LAYERS = LayersConfig(weight=1.0, teacher="mvqkd:big")
TRAIN = {"a": 3, "b": 12}


@pytest.mark.parametrize(
    ("section", "option"),
    [("outputs", "target_delay"), ("layers", "future_shift")],
)
def test_a_delay_as_long_as_all_utterances_is_refused(section: str, option: str) -> None:
    loss = {"outputs": OUTPUTS, "layers": LAYERS}[section]

    def check(delay: int, **options: float) -> None:
        changed = replace(loss, **{option: delay}, **options)
        check_delays(DistillationConfig(**{section: changed}), TRAIN)

    check(11)
    with pytest.raises(UserError, match=f"no frame has a target.*{option} is 12.* has 12") as error:
        check(12)
    assert f"--distillation.{section}.{option}" in error.value.remedy
    check(12, weight=0.0)


def test_without_a_loss_of_the_future_there_is_no_shift() -> None:
    layers = replace(LAYERS, future_shift=99, future_weight=0.0)
    check_delays(DistillationConfig(layers=layers), TRAIN)


def test_it_is_refused_before_a_teacher_is_loaded(tmp_path: Path) -> None:
    cuts = make_corpus(tmp_path, [0.5, 1.0])
    distillation = DistillationConfig(outputs=replace(OUTPUTS, target_delay=99999))
    config = ExperimentConfig(distillation=distillation)
    inputs = ExperimentInputs(LoadedConfig(config, {}), DataFolder(tmp_path), tmp_path / "exp")
    with pytest.raises(UserError, match="no frame has a target"):
        open_losses(inputs, [cuts], [], torch.device("cpu"), tmp_path)
