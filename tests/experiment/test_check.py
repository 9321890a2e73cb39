"""Values that cannot be meant are told at the start, with their names."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mvqkd.errors import UserError
from mvqkd.experiment.check import check_option, check_training
from mvqkd.experiment.config import (
    DataConfig,
    DecodingConfig,
    DistillationConfig,
    ExperimentConfig,
    LossConfig,
    ModelConfig,
    TrainingConfig,
)
from mvqkd.experiment.parser import ExperimentParser, load_experiment

ROOT = Path(__file__).resolve().parents[2]
OUT_OF_RANGE = [
    ("training.save_interval", "0", "1 or more"),
    ("training.log_interval", "0", "1 or more"),
    ("training.accumulate", "0", "1 or more"),
    ("training.average_period", "0", "1 or more"),
    ("training.keep_epochs", "0", "-1, or 1 or more"),
    ("training.keep_checkpoints", "0", "-1, or 1 or more"),
    ("model.num_heads", "0", "1 or more"),
    ("model.dropout", "1", "0 or more and less than 1"),
    ("model.chunk_size", "[16, 0]", "-1, or 1 or more"),
    ("loss.prune_range", "1", "2 or more"),
    ("loss.lm_scale", "2", "0 or more and 1 or less"),
    ("optimizer.learning_rate", "0", "more than 0"),
    ("optimizer.betas", "[0.9]", "2 numbers, each 0 or more and less than 1"),
    ("data.time_mask_size", "0", "1 or more"),
    ("distillation.num_codebooks", "64", "1 or more and 32 or less"),
    ("distillation.delay", "-1", "0 or more"),
    ("data.musan_snr", "[5]", "2 numbers, each any number"),
    ("decoding.chunk_size", "-1", "0 or more"),
    ("decoding.avg", "0", "1 or more"),
]
OF_ANOTHER_KIND = [
    ("training.save_interval", "often", "a whole number"),
    ("training.save_interval", "1.5", "a whole number"),
    ("optimizer.betas", "[0.9, high]", "a number"),
    ("training.precision", "float8", "float32, bfloat16, float16"),
    ("decoding.methods", '["greedy_search", "fast"]', "greedy_search, modified_beam_search"),
    ("model.causal", "maybe", "true, false"),
]
GOOD = [
    ("training.keep_epochs", "-1"),
    ("optimizer.learning_rate", "1e-3"),
    ("optimizer.betas", "[0.9,0.95]"),
    ("model.chunk_size", "[16, -1]"),
    ("model.chunk_size", "[]"),
    ("model.causal", "true"),
    ("decoding.methods", '["greedy_search"]'),
    ("training.precision", "bfloat16"),
    ("distillation.teacher", "hf:x?y=1"),
]


@pytest.mark.parametrize(("name", "text", "allowed"), OUT_OF_RANGE)
def test_a_value_out_of_its_range_is_refused_wherever_it_is_read(tmp_path, name, text, allowed):
    with pytest.raises(UserError, match=f"{name} is .*; allowed: ") as error:
        ExperimentParser("test").parse([f"--{name}", text])
    assert allowed in error.value.problem
    section, field = name.split(".")
    path = tmp_path / "experiment.yaml"
    path.write_text(f"{section}:\n  {field}: {text}\n")
    with pytest.raises(UserError, match=f"{name} is .*; allowed: ") as error:
        load_experiment(path)
    assert str(path) in error.value.problem
    problem = check_option(name, text)
    assert problem is not None and name in problem and allowed in problem


@pytest.mark.parametrize(("name", "text", "allowed"), OF_ANOTHER_KIND)
def test_an_option_of_another_kind_is_told(name, text, allowed):
    problem = check_option(name, text)
    assert problem is not None and name in problem and allowed in problem


@pytest.mark.parametrize(("name", "text"), GOOD)
def test_good_options_pass_and_are_read_alike(name, text):
    assert check_option(name, text) is None
    ExperimentParser("test").parse([f"--{name}", text])


def test_a_name_that_is_no_field_is_told():
    assert "model.num_layer" in str(check_option("model.num_layer", "4"))


def test_options_are_checked_without_any_package():
    program = "from mvqkd.experiment.check import check_option; print(check_option('{}', '{}'))"
    found = subprocess.run(
        [sys.executable, "-S", "-c", program.format("training.save_interval", "0")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    ).stdout
    assert found == "training.save_interval is 0; allowed: 1 or more\n"


def _averaged(*, num_epochs=3, keep_epochs=-1, **decoding) -> ExperimentConfig:
    return ExperimentConfig(
        training=TrainingConfig(num_epochs=num_epochs, keep_epochs=keep_epochs),
        decoding=DecodingConfig(**decoding),
    )


@pytest.mark.parametrize(
    ("experiment", "problem", "remedy"),
    [
        (ExperimentConfig(model=ModelConfig(chunk_size=[16])), "model.causal is not set", "true"),
        (ExperimentConfig(loss=LossConfig(lm_scale=0.7, am_scale=0.6)), "more together", "0.4"),
        (ExperimentConfig(loss=LossConfig(ctc_warmup_steps=5)), "no CTC head", "ctc_scale"),
        (_averaged(methods=["ctc_greedy_search"]), "no CTC head", "ctc_scale"),
        (_averaged(methods=["modified_beam_search"], nbest=9), "beam of 4", "beam_size 9"),
        (ExperimentConfig(data=DataConfig(musan_snr=[20, 10])), "lower end", "[10, 20]"),
        (ExperimentConfig(data=DataConfig(unlabelled_ratio=1)), "only distillation", "method"),
        (
            ExperimentConfig(distillation=DistillationConfig(method="l2", layer=99)),
            "layer is 99",
            "layer 1 to 12",
        ),
        (
            ExperimentConfig(distillation=DistillationConfig(method="l2")),
            "layer is 0",
            "layer 1 to 12",
        ),
        (
            ExperimentConfig(
                distillation=DistillationConfig(method="mvq", layer=6, source="embeddings")
            ),
            "mvq predicts stored",
            "source codes",
        ),
        (
            ExperimentConfig(
                distillation=DistillationConfig(
                    method="l1", layer=6, source="teacher", targets="codes"
                )
            ),
            "targets is codes",
            "targets ''",
        ),
        (
            ExperimentConfig(
                distillation=DistillationConfig(method="l2", layer=6, prediction="tied")
            ),
            "l2 predicts no codebook",
            "prediction independent",
        ),
        (
            ExperimentConfig(
                distillation=DistillationConfig(method="l2", layer=6, rate_weight=0.01)
            ),
            "source embeddings has no codes",
            "rate_weight 0",
        ),
        (_averaged(avg=4), "not as many epochs", "--decoding.avg 3 or less"),
        (_averaged(epoch=2, avg=3), "not as many epochs", "--decoding.avg 2 or less"),
        (_averaged(epoch=4), "decoding.epoch is 4", "--decoding.epoch 3 or less"),
        # The average over epochs 2 and 3 is told by the running averages of epochs 1 and 3.
        (_averaged(avg=2, keep_epochs=2), r"needs epoch-1\.pt", "--training.keep_epochs 3"),
        (
            _averaged(avg=2, keep_epochs=1, use_averaged_model=False),
            r"needs epoch-2\.pt",
            "--training.keep_epochs 2",
        ),
        (_averaged(epoch=1, keep_epochs=2), r"needs epoch-1\.pt", "--training.keep_epochs 3"),
    ],
)
def test_values_that_do_not_go_together_are_refused(experiment, problem, remedy):
    with pytest.raises(UserError, match=problem) as error:
        check_training(experiment)
    assert remedy in error.value.remedy


@pytest.mark.parametrize(
    "experiment",
    [
        ExperimentConfig(),
        ExperimentConfig(loss=LossConfig(lm_scale=0.5, am_scale=0.5)),
        ExperimentConfig(distillation=DistillationConfig(method="l2", layer=12)),
        ExperimentConfig(
            distillation=DistillationConfig(method="mvq", layer=6, prediction="joint")
        ),
        ExperimentConfig(
            distillation=DistillationConfig(method="l2", layer=6, source="codes", rate_weight=0.01)
        ),
        _averaged(avg=2, keep_epochs=3),
        _averaged(avg=3, keep_epochs=1),
        _averaged(avg=2, keep_epochs=2, use_averaged_model=False),
        replace(
            ExperimentConfig(data=DataConfig(unlabelled_ratio=1)),
            distillation=DistillationConfig(method="mvq", layer=6),
        ),
    ],
)
def test_values_that_go_together_pass(experiment):
    check_training(experiment)


def test_a_list_has_brackets_as_the_parser_wants_them() -> None:
    assert check_option("model.chunk_size", "[4, 16]") is None
    assert check_option("model.chunk_size", "[]") is None
    assert "a list, such as [1, 2]" in str(check_option("model.chunk_size", "16"))
