"""The section `distillation.layers` with teachers that are no experiments, and stored frames."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mvqkd.distillation import AudioLayers, AuxiliaryLayers, StoredLayer
from mvqkd.errors import UserError
from mvqkd.recipe.config.layers_schema import LayersConfig
from mvqkd.recipe.config.schema import DistillationConfig, QuantizerConfig
from mvqkd.recipe.distillation import Utterances, count_frames
from mvqkd.recipe.foreign_layer_distillation import open_audio_layers, open_stored_layer
from mvqkd.recipe.teacher_files import teacher_files
from mvqkd.training.metrics import read_metrics
from tests.recipe.targets import make_codes, make_embeddings
from tests.recipe.test_layer_distillation import LAYERS, data, experiment, train
from tests.teachers.conftest import save_variant
from tests.teachers.corpus import URI, make_corpus

__all__ = ["data", "save_variant"]  # fixtures

STORED = LayersConfig(
    weight=1.0,
    teacher=URI,
    teacher_layer=[2],
    layer=[1, 2],
    relation_weight=0.0,
    quantizer=QuantizerConfig(num_codebooks=2),
    num_heads=6,
)


def test_a_network_of_audio_becomes_the_teacher(save_variant, tmp_path) -> None:
    cuts = make_corpus(tmp_path, [0.5])
    options = {"num_layers": 2, "cuts": [cuts], "device": torch.device("cpu")}
    uri = f"hf:{save_variant('whisper')}"
    opened = open_audio_layers("layers", replace(LAYERS, teacher=uri), uri, **options)
    loss = opened.build(16)
    assert isinstance(loss, AuxiliaryLayers) and isinstance(loss.teacher, AudioLayers)
    # Two frames of 16 dimensions for one, and its two heads.
    assert loss.branches[0].dim == 32 and loss.branches[0].attention.num_heads == 2
    assert loss.pairs == [(2, 1), (3, 2)]
    assert opened.source is not None and not opened.clean_features
    json.dumps(opened.description)
    with pytest.raises(UserError, match="num_heads is 5"):
        open_audio_layers("layers", replace(LAYERS, num_heads=5), uri, **options)
    wavlm = f"hf:{save_variant('wavlm-large')}"
    with pytest.raises(UserError, match="gives no relations"):
        open_audio_layers("layers", LAYERS, wavlm, **options)
    plain = open_audio_layers("layers", replace(LAYERS, relation_weight=0.0), wavlm, **options)
    assert plain.build(16).branches[0].attention.num_heads == 8


def test_a_student_is_trained_with_whisper_beside_it(data, save_variant, tmp_path) -> None:
    layers = replace(LAYERS, teacher=f"hf:{save_variant('whisper')}")
    found = train(experiment(layers, num_epochs=1), data, tmp_path, "student")
    lines = list(read_metrics(found / "log" / "metrics.jsonl"))
    for part in ("feature", "relation", "future"):
        assert all(0 < line[f"layers.{part}"] < 1000 for line in lines)


@pytest.mark.parametrize("source", ["embeddings", "codes"])
def test_stored_frames_take_the_place_of_a_teacher(source: str, tmp_path: Path) -> None:
    cuts = make_corpus(tmp_path / "corpus", [0.5, 0.7])
    section = replace(STORED, source=source)
    distillation = DistillationConfig(layers=section)
    stored: Any = distillation.frame_losses["layers"]
    assert distillation.losses["layers"] is section
    files = teacher_files(stored, tmp_path / "data", tmp_path / "exp")
    utterances = Utterances(train=count_frames([cuts]), dev={})
    with pytest.raises(UserError):
        open_stored_layer("layers", section, stored, files, utterances)
    (make_codes if source == "codes" else make_embeddings)(files, cuts)
    opened = open_stored_layer("layers", section, stored, files, utterances)
    loss = opened.build(16)
    assert isinstance(loss.teacher, StoredLayer)
    assert loss.pairs == [(2, 1), (2, 2)] and loss.branches[1].dim == 24
    assert opened.source is not None and opened.description["bytes_per_hour"] > 0
    with pytest.raises(UserError, match="num_heads is 7"):
        open_stored_layer("layers", replace(section, num_heads=7), stored, files, utterances)
