"""Values that are possible each by itself, but not together, are refused before training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mvqkd.errors import UserError
from mvqkd.recipe.config.load import LoadedConfig, load_config
from mvqkd.recipe.config.rules import check_rules
from mvqkd.recipe.config.schema import (
    CodesConfig,
    DataConfig,
    DecodingConfig,
    DistillationConfig,
    EmbeddingsConfig,
    ExperimentConfig,
    HypothesesConfig,
    LayersConfig,
    LossConfig,
    ModelConfig,
    OutputsConfig,
    QuantizerConfig,
    TrainingConfig,
)

ROOT = Path(__file__).resolve().parents[3]
RATED = QuantizerConfig(rate_distortion_weight=0.01)


def check(config: ExperimentConfig) -> None:
    check_rules(LoadedConfig(config, {}))


def averaged(*, num_epochs=3, keep_epochs=-1, **decoding) -> ExperimentConfig:
    return ExperimentConfig(
        training=TrainingConfig(num_epochs=num_epochs, keep_epochs=keep_epochs),
        decoding=DecodingConfig(**decoding),
    )


def codes(**fields: Any) -> CodesConfig:
    return CodesConfig(**{"weight": 1.0, "teacher": "hf:x", "teacher_layer": 4, **fields})


def embeddings(**fields: Any) -> EmbeddingsConfig:
    return EmbeddingsConfig(**{"weight": 1.0, "teacher": "hf:x", "teacher_layer": 4, **fields})


def layers(**fields: Any) -> ExperimentConfig:
    return distilled(layers=LayersConfig(**{"weight": 1.0, "teacher": "mvqkd:big", **fields}))


def stored_layer(**fields: Any) -> ExperimentConfig:
    stored = {"source": "codes", "teacher_layer": [3], "layer": [6], "relation_weight": 0.0}
    return layers(**{**stored, **fields})


def distilled(**sections: Any) -> ExperimentConfig:
    return ExperimentConfig(distillation=DistillationConfig(**sections))


def half_rate(layers, **values):
    return ExperimentConfig(model=ModelConfig(causal=True, half_rate=layers, **values))


@pytest.mark.parametrize(
    ("experiment", "problem", "remedy"),
    [
        (ExperimentConfig(model=ModelConfig(chunk_size=[16])), "model.causal is not set", "true"),
        (ExperimentConfig(loss=LossConfig(lm_scale=0.7, am_scale=0.6)), "more together", "0.4"),
        (ExperimentConfig(loss=LossConfig(ctc_warmup_steps=5)), "no CTC head", "ctc_scale"),
        (averaged(methods=["ctc_greedy_search"]), "no CTC head", "ctc_scale"),
        (averaged(methods=["modified_beam_search"], nbest=9), "beam of 4", "beam_size 9"),
        (ExperimentConfig(data=DataConfig(musan_snr=[20, 10])), "lower end", "[10, 20]"),
        (ExperimentConfig(data=DataConfig(unlabelled_ratio=1)), "only distillation", "weight"),
        (
            distilled(embeddings=embeddings(layer=[99])),
            r"distillation\.embeddings\.layer is 99",
            "--distillation.embeddings.layer 1 to 12",
        ),
        (
            distilled(codes=codes()),
            r"distillation\.codes\.layer is \[\]",
            "--distillation.codes.layer 1 to 12",
        ),
        (
            distilled(codes=codes(layer=[1], teacher="")),
            "distillation.codes is on, but its teacher is ''",
            "name a teacher",
        ),
        (
            distilled(embeddings=embeddings(layer=[1], teacher_layer=0)),
            "distillation.embeddings is on, .*teacher_layer 0",
            "layers, counted from 1",
        ),
        (
            distilled(codes=codes(layer=[6]), embeddings=embeddings(layer=[13])),
            r"distillation\.embeddings\.layer is 13",
            "--distillation.embeddings.layer 1 to 12",
        ),
        (
            distilled(embeddings=embeddings(layer=[6], source="online", targets="codes")),
            "targets is codes, but with the source online none are read",
            "targets ''",
        ),
        (
            distilled(embeddings=embeddings(layer=[6], quantizer=RATED)),
            "source embeddings has no codes",
            "rate_distortion_weight 0",
        ),
        (layers(teacher=""), "layers is on, but has no teacher", "teacher mvqkd:EXPERIMENT"),
        (stored_layer(teacher_layer=[3, 6]), "one layer is stored", "teacher_layer"),
        (stored_layer(relation_weight=0.1), "no relations of attention", "relation_weight 0"),
        (stored_layer(layer=[13]), "has 12 layers", "layer 1 to 12"),
        (layers(layer=[3, 6]), r"layer is \[3, 6\], .*teacher_layer \[\]", "none of both"),
        (layers(layer=[6, 13], teacher_layer=[6, 12]), "has 12 layers", "of 1 to 12"),
        (layers(layer=[6, 6], teacher_layer=[6, 12]), "has 12 layers", "different ones"),
        (
            layers(feature_weight=0, relation_weight=0, future_weight=0),
            "weights of all its losses are 0",
            "--distillation.layers.weight 0",
        ),
        (
            layers(branch="projection", future_weight=0),
            "neither attention nor a prediction",
            "--distillation.layers.relation_weight 0, or --distillation.layers.branch transformer",
        ),
        (half_rate([2, 13]), "not the first and the last", r"half_rate '[2, 11]'"),
        (half_rate([2]), "not the first and the last", r"half_rate '[2, 11]'"),
        (half_rate([2, 5], chunk_size=[4, 5, -1]), r"model\.chunk_size has 5", "6 in place of 5"),
        (half_rate([2, 5], left_context=7), r"model\.left_context has 7", "8 in place of 7"),
        (averaged(avg=4), "not as many epochs", "--decoding.avg 3 or less"),
        (averaged(epoch=2, avg=3), "not as many epochs", "--decoding.avg 2 or less"),
        (averaged(epoch=4), "decoding.epoch is 4", "--decoding.epoch 3 or less"),
        # The average over epochs 2 and 3 follows from the running averages of epochs 1 and 3.
        (averaged(avg=2, keep_epochs=2), r"needs epoch-1\.pt", "--training.keep_epochs 3"),
        (
            averaged(avg=2, keep_epochs=1, use_averaged_model=False),
            r"needs epoch-2\.pt",
            "--training.keep_epochs 2",
        ),
        (averaged(epoch=1, keep_epochs=2), r"needs epoch-1\.pt", "--training.keep_epochs 3"),
    ],
)
def test_values_that_do_not_go_together_are_refused(experiment, problem, remedy):
    with pytest.raises(UserError, match=problem) as error:
        check(experiment)
    assert remedy in error.value.remedy


@pytest.mark.parametrize(
    "experiment",
    [
        ExperimentConfig(),
        ExperimentConfig(loss=LossConfig(lm_scale=0.5, am_scale=0.5)),
        distilled(embeddings=embeddings(layer=[12])),
        distilled(codes=codes(layer=[6], prediction="joint", quantizer=RATED)),
        distilled(embeddings=embeddings(layer=[6], source="codes", quantizer=RATED)),
        distilled(codes=codes(layer=[6]), embeddings=embeddings(layer=[3], source="online")),
        layers(),
        layers(layer=[12, 6], teacher_layer=[99, 99], future_weight=0),
        layers(branch="projection", relation_weight=0, future_weight=0),
        layers(teacher="hf:x"),
        stored_layer(layer=[3, 6]),
        # Sections that are off may hold anything.
        layers(weight=0, teacher="", layer=[99]),
        distilled(
            codes=codes(weight=0.0, teacher=""), embeddings=embeddings(weight=0.0, layer=[99])
        ),
        half_rate([2, 5], chunk_size=[4, 8, -1], left_context=16),
        half_rate([1, 12], chunk_size=[4], left_context=-1),
        averaged(avg=2, keep_epochs=3),
        averaged(avg=3, keep_epochs=1),
        averaged(avg=2, keep_epochs=2, use_averaged_model=False),
        ExperimentConfig(
            data=DataConfig(unlabelled_ratio=1),
            distillation=DistillationConfig(codes=codes(layer=[6])),
        ),
    ],
)
def test_values_that_go_together_pass(experiment):
    check(experiment)


@pytest.mark.parametrize(
    "name", ["distillation.codes.source", "distillation.embeddings.prediction"]
)
def test_values_of_one_loss_are_not_of_the_other(name):
    with pytest.raises(UserError, match=f"no configuration value {name}"):
        load_config(None, [(name, "codes")])


def test_where_the_values_came_from_is_reported(tmp_path):
    base = tmp_path / "base.yaml"
    base.write_text("description: x\nmodel:\n  chunk_size: [16]\n")
    path = tmp_path / "full.yaml"
    path.write_text("base: base.yaml\n")
    with pytest.raises(UserError, match="not set") as error:
        check_rules(load_config(path, [("model.causal", "false")]))
    assert f"model.chunk_size: {base}, line 3" in error.value.problem
    assert "model.causal: the command line" in error.value.problem


def test_the_recipes_have_experiments():
    assert len(shipped()) >= 20


def shipped() -> list[Path]:
    return sorted((ROOT / "egs").glob("*/conf/*.yaml"))


@pytest.mark.parametrize("path", shipped(), ids=lambda path: f"{path.parts[-3]}/{path.stem}")
def test_every_experiment_of_every_recipe_is_valid(path):
    loaded = load_config(path)
    check_rules(loaded)
    assert loaded.config.description, "no description for the results table"
    assert loaded.origins["description"].startswith(f"{path}, line ")  # not that of its base
    assert loaded.config.model.dim % loaded.config.model.num_heads == 0


def test_other_data_have_no_targets_that_are_stored() -> None:
    other = {"replay": DataConfig(replay=["old"]), "extra_dev": DataConfig(extra_dev=["old"])}
    codes = CodesConfig(weight=1.0, teacher="mvqkd:a", teacher_layer=1, layer=[1])
    foreign = LayersConfig(weight=1.0, teacher="hf:a/b")
    for name, data in other.items():
        check(ExperimentConfig(data=data))
        for section, losses in (
            ("codes", DistillationConfig(codes=codes)),
            ("hypotheses", DistillationConfig(hypotheses=HypothesesConfig(1.0, "hf:a/b"))),
            ("layers", DistillationConfig(layers=foreign)),
        ):
            with pytest.raises(UserError, match=f"data.{name} .* no targets of .*{section}"):
                check(ExperimentConfig(data=data, distillation=losses))
        own = LayersConfig(weight=1.0, teacher="mvqkd:a")
        outputs = OutputsConfig(weight=1.0, teacher="mvqkd:a")
        losses = DistillationConfig(layers=own, outputs=outputs)
        check(ExperimentConfig(data=data, distillation=losses))
