"""The section `distillation.tokens`, from the configuration to a trained student."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mvqkd.checkpoints.files import save_checkpoint
from mvqkd.data.folder import DataFolder
from mvqkd.data.loading.feature_reader import FeatureReader
from mvqkd.errors import UserError
from mvqkd.recipe import build, token_distillation
from mvqkd.recipe.build import build_student, describe_model
from mvqkd.recipe.config.attention_schema import DecoderConfig, TokensConfig
from mvqkd.recipe.config.load import LoadedConfig
from mvqkd.recipe.config.rules import check_rules
from mvqkd.recipe.config.schema import (
    DataConfig,
    DecodingConfig,
    DistillationConfig,
    ExperimentConfig,
    LossConfig,
    ModelConfig,
    TrainingConfig,
)
from mvqkd.recipe.run_folder import describe_data
from mvqkd.training.metrics import read_metrics
from tests.recipe.test_layer_distillation import SIZES, data, train

__all__ = ["data"]  # a fixture
DECODER = DecoderConfig(dim=16, num_layers=1, num_heads=2, feedforward_dim=16)
MODEL = ModelConfig(dim=16, num_layers=1, num_heads=2, conv_kernel=3, decoder=DECODER, **SIZES)
ATTENTION = LossConfig(transducer_scale=0, attention_scale=1, ctc_scale=0.2)
TOKENS = TokensConfig(weight=0.5, teacher="mvqkd:big")


def student(tokens: TokensConfig = TOKENS) -> ExperimentConfig:
    return ExperimentConfig(
        data=DataConfig(step_duration=6, num_buckets=2, num_workers=0),
        model=MODEL,
        loss=ATTENTION,
        distillation=DistillationConfig(tokens=replace(tokens)),
        training=TrainingConfig(num_epochs=1, log_interval=1),
        decoding=DecodingConfig(methods=["attention_greedy_search"]),
    )


@pytest.fixture
def make_teacher(data: Path, tmp_path: Path) -> Callable[..., Path]:
    """Makes an experiment with random weights, trained with the student's tokens or others."""

    def make_teacher(loss: LossConfig = ATTENTION, bpe_model: str | None = None) -> Path:
        torch.manual_seed(5)
        config = replace(student(), loss=loss)
        folder = tmp_path / "big"
        folder.mkdir()
        state = {"model": build_student(config, 30).state_dict()}
        description = describe_model(config, 30)
        save_checkpoint(folder / "pretrained.pt", {**state, "description": description})
        fed = describe_data([], [], DataFolder(data).lang(30))
        if bpe_model is not None:
            fed["bpe_model_sha256"] = bpe_model
        (folder / "data.json").write_text(json.dumps(fed))
        return folder

    return make_teacher


@pytest.mark.parametrize(
    ("options", "message", "remedy"),
    [
        ({"bpe_model": "0" * 64}, "was trained with another BPE model than", "--vocab-size"),
        (
            {"loss": LossConfig(ctc_scale=0.2)},
            "has no attention decoder: it was trained with transducer, ctc",
            "loss.attention_scale",
        ),
    ],
)
def test_wrong_teachers_are_refused_before_the_first_step(
    data: Path,
    tmp_path: Path,
    make_teacher: Callable[..., Path],
    options: dict[str, Any],
    message: str,
    remedy: str,
) -> None:
    make_teacher(**options)
    with pytest.raises(UserError, match=message) as error:
        train(student(), data, tmp_path, "student")
    assert remedy in error.value.remedy
    assert not list((tmp_path / "student").rglob("*.pt"))
    assert not (tmp_path / "student/log/metrics.jsonl").exists()


@pytest.mark.parametrize("teacher", ["", "hf:openai/whisper-tiny.en"])
def test_teachers_that_cannot_have_the_tokens_are_refused_by_their_names(teacher: str) -> None:
    with pytest.raises(UserError, match="only experiments of ours have the student's tokens"):
        check_rules(LoadedConfig(student(replace(TOKENS, teacher=teacher)), {}))
    check_rules(LoadedConfig(student(), {}))


def test_a_teacher_that_is_no_experiment_is_refused(monkeypatch, data: Path) -> None:
    monkeypatch.setattr(token_distillation, "load_teacher", lambda _: torch.nn.Identity())
    with pytest.raises(UserError, match="no experiment of ours"):
        token_distillation.open_tokens(
            TOKENS, "python:a:b", DataFolder(data).lang(30), device=torch.device("cpu")
        )


def test_a_student_is_trained_with_the_term_in_its_loss(
    data: Path, tmp_path: Path, make_teacher: Callable[..., Path]
) -> None:
    make_teacher()
    found = train(student(), data, tmp_path, "student")
    lines = list(read_metrics(found / "log" / "metrics.jsonl"))
    assert {line["kind"] for line in lines} == {"train", "valid"}
    for line in lines:
        assert line["tokens"] > 0
        total = line["recognition_loss"] + TOKENS.weight * line["tokens"]
        assert line["loss"] == pytest.approx(total, rel=1e-4)
    alone = train(student(replace(TOKENS, weight=0.0)), data, tmp_path, "alone")
    (first, *_), (plain, *_) = (
        [line for line in read_metrics(folder / "log" / "metrics.jsonl") if line["kind"] == "train"]
        for folder in (found, alone)
    )
    # The same student at first, which then goes another way.
    assert first["recognition_loss"] == plain["recognition_loss"] < first["loss"]
    weights, without = (
        torch.load(folder / "pretrained.pt", weights_only=True)["model"]
        for folder in (found, alone)
    )
    assert weights.keys() == without.keys()
    assert not torch.equal(weights["attention.output.weight"], without["attention.output.weight"])


def test_the_teacher_receives_features_without_noise_and_masks(
    data: Path, tmp_path: Path, make_teacher: Callable[..., Path], monkeypatch
) -> None:
    monkeypatch.setattr(build, "build_noise", lambda *_: lambda x, utterance, epoch: x + 1)
    seen = []

    class Watched(token_distillation.DecoderTeacher):
        def __call__(self, context, inputs):
            hook = self.encoder.register_forward_hook(
                lambda _, args, out: seen.append((context, args[0]))
            )
            found = super().__call__(context, inputs)
            hook.remove()
            return found

    monkeypatch.setattr(token_distillation, "DecoderTeacher", Watched)
    make_teacher()
    train(student(), data, tmp_path, "student")
    stored = FeatureReader([DataFolder(data).cuts(split) for split in ("train-tiny", "dev-a")])
    noisy = 0
    for context, features in seen:
        batch = context.batch
        for name, x, length in zip(batch.ids, features, batch.feature_lens.tolist(), strict=True):
            assert torch.equal(x[:length], torch.from_numpy(stored[name]))
        noisy += int(not torch.equal(context.features, features))
    assert noisy == 2 < len(seen)  # the steps of training, and not the validation
