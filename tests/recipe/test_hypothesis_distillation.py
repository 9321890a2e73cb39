"""The section `distillation.hypotheses`, from the configuration to a trained student."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mvqkd.checkpoints.files import load_checkpoint
from mvqkd.data.folder import DataFolder
from mvqkd.data.loading.audio_cuts import AudioCuts
from mvqkd.data.targets.hypothesis_store import HypothesesWriter, HypothesisStore
from mvqkd.errors import UserError
from mvqkd.recipe.config.hypotheses_schema import HypothesesConfig, NormalizationConfig
from mvqkd.recipe.config.layers_schema import LayersConfig
from mvqkd.recipe.config.load import LoadedConfig
from mvqkd.recipe.config.rules import check_rules
from mvqkd.recipe.config.schema import DataConfig, ExperimentConfig
from mvqkd.recipe.hypothesis_distillation import open_teacher_text
from mvqkd.recipe.inputs import ExperimentInputs
from mvqkd.recipe.stages.embeddings import TeacherPass
from mvqkd.recipe.stages.hypotheses import dump_for_experiment
from mvqkd.recipe.stages.train import train_experiment
from mvqkd.recipe.teacher_files import hypotheses_folder
from mvqkd.training.metrics import read_metrics
from tests.recipe.test_layer_distillation import LABELLED_HOURS, data, experiment, make_teacher

__all__ = ["data"]
URI = "python:tests.teachers.corpus:writer?word=the "
SECTION = HypothesesConfig(weight=1.0, teacher=URI, num_hypotheses=3)
HOW = TeacherPass(shard_hours=1.0, num_workers=0)


def config_of(section: HypothesesConfig, layers: LayersConfig | None = None, **values: Any):
    config = experiment(layers or LayersConfig(), num_epochs=1)
    config.distillation.hypotheses = section
    config.data = replace(config.data, **values)
    return config


def inputs_of(config: ExperimentConfig, data: Path, experiments: Path) -> ExperimentInputs:
    return ExperimentInputs(LoadedConfig(config, {}), DataFolder(data), experiments)


def train(config: ExperimentConfig, data: Path, experiments: Path, name: str) -> Path:
    inputs = inputs_of(config, data, experiments)
    assert train_experiment(inputs, experiments / name, vocab_size=30, device="cpu")
    return experiments / name


@pytest.fixture(scope="module")
def dumped(data: Path) -> Path:
    """The folder of the section's texts."""
    DataFolder(data).record_vocab_size(30)
    dump_for_experiment(inputs_of(config_of(SECTION), data, data), HOW)
    return hypotheses_folder(SECTION, data)


def test_a_student_is_trained_on_texts_in_place_of_transcripts_and_where_there_are_none(
    data: Path, dumped: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        folder = train(config_of(SECTION), data, tmp_path, "student")
    assert "unlabelled: 2 of 2 utterances have hypotheses" in caplog.text
    lines = read_metrics(folder / "log" / "metrics.jsonl")
    kinds = {line["kind"] for line in lines}
    assert kinds == {"train", "valid"}
    assert all(0 < line["pruned"] < 1000 and 0 < line["ctc"] < 1000 for line in lines)
    described = json.loads((folder / "distillation.json").read_text())["hypotheses"]
    assert described["teacher"] == URI and described["utterances"] == 10
    assert described["normalization"]["case"] == "upper" and described["bytes_per_hour"] > 0
    assert json.loads((folder / "data.json").read_text())["teachers"] == {"hypotheses": URI}
    # The student is the plain one.
    plain = train(config_of(HypothesesConfig(), unlabelled_ratio=0.0), data, tmp_path, "plain")
    one, other = (load_checkpoint(x / "pretrained.pt")["model"] for x in (folder, plain))
    assert {k: v.shape for k, v in one.items()} == {k: v.shape for k, v in other.items()}
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_all_methods_go_together(data: Path, dumped: Path, tmp_path: Path) -> None:
    make_teacher(tmp_path)
    layers = LayersConfig(weight=1.0, teacher="mvqkd:big", future_shift=2)
    folder = train(config_of(SECTION, layers), data, tmp_path, "student")
    lines = read_metrics(folder / "log" / "metrics.jsonl")
    assert all(line["layers"] > 0 and line["pruned"] > 0 for line in lines)
    names = json.loads((folder / "distillation.json").read_text())
    assert set(names) - {"digest"} == {"layers", "hypotheses"}


def test_one_hypothesis_that_is_the_transcript_trains_the_same_student(
    data: Path, dumped: Path, tmp_path: Path
) -> None:
    """A teacher that knows everything."""
    cuts = inputs_of(config_of(SECTION), data, data).cuts("train")
    audio = AudioCuts(cuts)
    truth = {name: audio.text(number) for number, name in enumerate(audio.ids)}
    store = HypothesisStore(dumped)
    # Of another tokenizer, so that the texts count.
    section = replace(SECTION, targets=str(tmp_path / "texts"), num_hypotheses=1)
    info = replace(store.info, tokenizer="0" * 64)
    with HypothesesWriter(tmp_path / "texts" / "h-00000-of-00001.jsonl.gz", info) as writer:
        for utterance in store:
            first = replace(utterance.hypotheses[0], text=truth[utterance.id], tokens=[])
            writer.write(replace(utterance, hypotheses=[first]))
    options = {"unlabelled_ratio": 0.0, "labelled_hours": 0.0}
    taught = train(config_of(section, **options), data, tmp_path, "taught")
    plain = train(config_of(HypothesesConfig(), **options), data, tmp_path, "plain")
    one, other = (load_checkpoint(x / "pretrained.pt")["model"] for x in (taught, plain))
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.slow
def test_a_training_goes_on_with_the_same_texts_alone(
    data: Path, dumped: Path, tmp_path: Path
) -> None:
    train(config_of(SECTION), data, tmp_path, "parts")
    longer = config_of(SECTION)
    longer.training.num_epochs = 2
    parts = train(longer, data, tmp_path, "parts")
    whole = train(longer, data, tmp_path, "whole")
    one, other = (load_checkpoint(x / "epoch-2.pt")["model"] for x in (parts, whole))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    store = HypothesisStore(dumped)
    path = tmp_path / "texts" / "h-00000-of-00001.jsonl.gz"
    with HypothesesWriter(path, store.info) as writer:
        for utterance in store:
            changed = [replace(h, log_prob=h.log_prob - 1) for h in utterance.hypotheses]
            writer.write(replace(utterance, hypotheses=changed))
    original, names = [*dumped.glob("*.gz")], [x.name for x in dumped.glob("*.gz")]
    saved = [file.read_bytes() for file in original]
    try:
        original[0].write_bytes(path.read_bytes())
        longer.training.num_epochs = 3
        with pytest.raises(UserError, match="was trained on hypotheses"):
            train(longer, data, tmp_path, "parts")
    finally:
        for file, contents in zip(original, saved, strict=True):
            file.write_bytes(contents)
    assert len(names) == 1


@pytest.fixture
def open_(data: Path, dumped: Path) -> Callable[..., Any]:
    lang = DataFolder(data).lang(30, LABELLED_HOURS)

    def open_(teacher: str = URI, folder: Path = dumped, **options: Any) -> Any:
        return open_teacher_text(replace(SECTION, **options), folder, teacher, lang, ctc=True)

    return open_


def test_texts_of_another_teacher_or_normalization_are_refused(
    open_: Callable[..., Any], tmp_path: Path
) -> None:
    assert open_().source.choice.ctc and open_().source.choice.num_hypotheses == 3
    with pytest.raises(UserError, match=r"is of the teacher python:.*, not hf:x"):
        open_(teacher="hf:x")
    with pytest.raises(UserError, match=r"is of the normalization .*'upper'.* not .*'lower'"):
        open_(normalization=NormalizationConfig(case="lower"))
    # Texts that are named are taken as they are.
    assert open_(teacher="hf:x", targets="anything").description["utterances"] == 10
    with pytest.raises(UserError, match="is missing") as error:
        open_(folder=tmp_path / "nowhere")
    assert error.value.step == "hypotheses"


def test_every_search_and_normalization_has_its_folder(tmp_path: Path) -> None:
    folders = {
        hypotheses_folder(replace(SECTION, **options), tmp_path)
        for options in (
            {},
            {"beam_size": 9},
            {"teacher": "hf:a/b"},
            {"normalization": NormalizationConfig(case="lower")},
        )
    }
    assert len(folders) == 4
    # What training alone makes of the texts does not count.
    training = {"num_hypotheses": 1, "weighting": "posterior", "max_wer": 10.0, "truth_share": 0.5}
    assert hypotheses_folder(replace(SECTION, **training), tmp_path) == hypotheses_folder(
        SECTION, tmp_path
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher": ""}, "is on, but it has no teacher"),
        ({"num_hypotheses": 9}, "num_hypotheses is 9, but a beam of 5 has no more than 5"),
        ({"truth_share": 1.0}, "the hypotheses are not used"),
    ],
)
def test_values_that_do_not_go_together_are_refused(options: dict[str, Any], message: str) -> None:
    config = ExperimentConfig(data=DataConfig())
    config.distillation.hypotheses = replace(SECTION, **options)
    with pytest.raises(UserError, match=message):
        check_rules(LoadedConfig(config, {}))
    config.data.unlabelled_ratio = 1.0
    config.distillation.hypotheses = SECTION
    check_rules(LoadedConfig(config, {}))  # hypotheses alone are something to learn from
