"""Experiments of version 0.1.0, with one `distillation.method`, mean what they meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvqkd.errors import UserError
from mvqkd.recipe.config.load import load_config
from mvqkd.recipe.config.schema import (
    CodesConfig,
    DistillationConfig,
    EmbeddingsConfig,
    QuantizerConfig,
)

OFF = DistillationConfig()
MVQ = "method: mvq, teacher: hf:x, teacher_layer: 4, layer: 2"
CODES = CodesConfig(weight=1.0, teacher="hf:x", teacher_layer=4, layer=[2])
EMBEDDINGS = EmbeddingsConfig(weight=1.0, teacher="hf:x", teacher_layer=4, layer=[2])
EVERY_FIELD = """
distillation:
  method: {method}
  teacher: hf:x
  teacher_layer: 4
  layer: 2
  scale: 1.0
  source: '{source}'
  num_codebooks: 8
  rate_weight: 0.0
  prediction: independent
  delay: 0
  masked_weight: 1.0
  unmasked_weight: 1.0
  targets: ''
  sample_utterances: 1000
  quantizer_steps: 0
  quantizer: ''
"""


def write(folder: Path, name: str, distillation: str) -> Path:
    path = folder / name
    path.write_text(f"distillation: {{{distillation}}}\n")
    return path


def changed(section, **fields):
    """A section with other values; those of its quantizer by their names."""
    quantizer = {k: fields.pop(k) for k in list(fields) if k in QuantizerConfig.__annotations__}
    return type(section)(**{**vars(section), **fields, "quantizer": QuantizerConfig(**quantizer)})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("method: none", OFF),
        (
            "method: none, teacher: hf:x, scale: 3",
            DistillationConfig(CodesConfig(teacher="hf:x"), EmbeddingsConfig(teacher="hf:x")),
        ),
        (MVQ, DistillationConfig(codes=CODES)),
        (f"{MVQ}, source: codes", DistillationConfig(codes=CODES)),
        (f"{MVQ}, scale: 0.3", DistillationConfig(codes=changed(CODES, weight=0.3))),
        (f"{MVQ}, scale: 0", DistillationConfig(codes=changed(CODES, weight=0.0))),
        (
            f"{MVQ}, delay: 3, prediction: joint, masked_weight: 2, unmasked_weight: 0.5, "
            "targets: folder, num_codebooks: 16, rate_weight: 0.01, sample_utterances: 50, "
            "quantizer_steps: 9, quantizer: q.pt",
            DistillationConfig(
                codes=changed(
                    CODES,
                    target_delay=3,
                    prediction="joint",
                    masked_weight=2.0,
                    unmasked_weight=0.5,
                    targets="folder",
                    num_codebooks=16,
                    rate_distortion_weight=0.01,
                    sample_utterances=50,
                    num_steps=9,
                    file="q.pt",
                )
            ),
        ),
        (
            f"{MVQ.replace('mvq', 'l2')}, scale: 10, num_codebooks: 4, delay: 1",
            DistillationConfig(
                embeddings=changed(EMBEDDINGS, weight=10.0, num_codebooks=4, target_delay=1)
            ),
        ),
        (
            f"{MVQ.replace('mvq', 'cosine')}, source: codes",
            DistillationConfig(
                embeddings=changed(EMBEDDINGS, distance="cosine", source="codes"),
            ),
        ),
        (
            f"{MVQ.replace('mvq', 'l1')}, source: teacher",
            DistillationConfig(embeddings=changed(EMBEDDINGS, distance="l1", source="online")),
        ),
        (
            f"{MVQ.replace('mvq', 'kld')}, source: embeddings",
            DistillationConfig(embeddings=changed(EMBEDDINGS, distance="kld")),
        ),
    ],
)
def test_an_old_experiment_is_the_same_as_ever(tmp_path, old, new):
    path = write(tmp_path, "old.yaml", old)
    assert load_config(path).config.distillation == new
    words = [item.split(": ") for item in old.split(", ")]
    options = [(f"distillation.{name}", text) for name, text in words]
    assert load_config(None, options).config.distillation == new


@pytest.mark.parametrize(
    ("method", "source", "new"),
    [
        ("mvq", "", DistillationConfig(codes=CODES)),
        ("mvq", "codes", DistillationConfig(codes=CODES)),
        ("l2", "", DistillationConfig(embeddings=EMBEDDINGS)),
        (
            "l1",
            "teacher",
            DistillationConfig(embeddings=changed(EMBEDDINGS, distance="l1", source="online")),
        ),
    ],
)
def test_what_an_old_training_wrote_into_its_folder_is_read(tmp_path, method, source, new):
    path = tmp_path / "config.yaml"
    path.write_text(EVERY_FIELD.format(method=method, source=source))
    assert load_config(path).config.distillation == new


def test_an_old_file_may_be_based_on_an_old_or_a_new_one(tmp_path):
    write(tmp_path, "mvq.yaml", f"{MVQ}, scale: 0.5")
    write(tmp_path, "late.yaml", "delay: 3, num_codebooks: 4")
    late = tmp_path / "late.yaml"
    late.write_text(f"base: mvq.yaml\n{late.read_text()}")
    wanted = changed(CODES, weight=0.5, target_delay=3, num_codebooks=4)
    assert load_config(late).config.distillation == DistillationConfig(codes=wanted)
    write(
        tmp_path,
        "mvq.yaml",
        "codes: {weight: 0.5, teacher: hf:x, teacher_layer: 4, layer: 2}",
    )
    assert load_config(late).config.distillation == DistillationConfig(codes=wanted)


@pytest.fixture
def codes(tmp_path: Path) -> Path:
    """A file of today."""
    text = (
        "weight: 0.5, teacher: hf:x, teacher_layer: 4, layer: 2, target_delay: 3, "
        "prediction: joint, targets: folder"
    )
    return write(tmp_path, "codes.yaml", f"codes: {{{text}, quantizer: {{num_codebooks: 4}}}}")


def test_an_old_method_replaces_the_loss_of_a_file_of_today(codes):
    found = load_config(codes, [("distillation.method", "cosine")]).config.distillation
    assert list(found.losses) == ["embeddings"]
    assert found.embeddings == changed(
        EMBEDDINGS, weight=0.5, target_delay=3, num_codebooks=4, distance="cosine"
    )
    found = load_config(codes, [("distillation.method", "none")]).config.distillation
    assert found.losses == {}
    found = load_config(codes, [("distillation.method", "mvq")]).config.distillation
    assert found == load_config(codes).config.distillation


def test_old_names_are_of_the_losses_that_are_on(codes, tmp_path):
    options = [("distillation.scale", "2"), ("distillation.layer", "5")]
    found = load_config(codes, options).config.distillation
    assert (found.codes.weight, found.codes.layer) == (2.0, [5])
    assert found.embeddings == EmbeddingsConfig()


def test_an_old_method_leaves_one_of_two_losses_as_it_is(tmp_path):
    both = write(
        tmp_path,
        "both.yaml",
        "codes: {weight: 1, teacher: hf:x, teacher_layer: 4, layer: 2}, "
        "embeddings: {weight: 10, teacher: hf:y, teacher_layer: 3, layer: 1, source: codes}",
    )
    before = load_config(both).config.distillation
    found = load_config(both, [("distillation.method", "l1")]).config.distillation
    assert list(found.losses) == ["embeddings"]
    assert vars(found.embeddings) == {**vars(before.embeddings), "distance": "l1"}
    found = load_config(both, [("distillation.method", "mvq")]).config.distillation
    assert list(found.losses) == ["codes"]
    assert found.codes == before.codes


def test_limits_of_a_batch_were_those_of_a_step(tmp_path, caplog):
    caplog.set_level("INFO")
    path = tmp_path / "old.yaml"
    path.write_text("data:\n  max_duration: 30\n  max_tokens: 99\ntraining:\n  accumulate: 2\n")
    data = load_config(path, [("data.step_tokens", "77")]).config.data
    assert (data.step_duration, data.step_tokens, data.batch_duration) == (30.0, 77, 0.0)
    assert "data.max_duration is called data.step_duration" in caplog.text
    assert "training.accumulate is gone" in caplog.text
    assert load_config(path, [("data.max_duration", "9")]).config.data.step_duration == 9.0


def test_the_new_names_are_reported(tmp_path, caplog):
    caplog.set_level("INFO")
    path = write(tmp_path, "old.yaml", f"{MVQ}, scale: 0.3")
    load_config(path)
    (message,) = caplog.messages
    assert message.startswith(f"{path} has names of an earlier version: ")
    assert "distillation.scale -> distillation.codes.weight" in message
    caplog.clear()
    load_config(write(tmp_path, "new.yaml", "codes: {weight: 1}"))
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("old", "told"),
    [
        (f"{MVQ}, num_codebooks: 64", r"quantizer\.num_codebooks is '64'; allowed: 1 or more"),
        (f"{MVQ}, delay: -1", r"codes\.target_delay is '-1'; allowed: 0 or more"),
        ("method: best", "is 'best'; allowed: .*l1, l2, cosine, kld"),
        (f"{MVQ}, scales: 1", r"no configuration value distillation\.scales"),
    ],
)
def test_wrong_values_of_old_names_are_refused_with_their_line(tmp_path, old, told):
    path = write(tmp_path, "old.yaml", old)
    with pytest.raises(UserError, match=told) as error:
        load_config(path)
    assert error.value.problem.startswith(f"{path}, line 1: ")


def test_values_wait_for_a_method(tmp_path):
    path = write(tmp_path, "old.yaml", "method: none, teacher: hf:x, teacher_layer: 3, layer: 2")
    assert not load_config(path).config.distillation.losses
    losses = load_config(path, [("distillation.method", "mvq")]).config.distillation.losses
    assert list(losses) == ["codes"]
    assert (losses["codes"].teacher, losses["codes"].layer) == ("hf:x", [2])


def test_a_wrong_method_is_refused_with_the_methods(tmp_path):
    path = write(tmp_path, "old.yaml", "method: best")
    with pytest.raises(UserError, match=r"old\.yaml, line 1: .*mvq, l1, l2, cosine, kld, none"):
        load_config(path)
