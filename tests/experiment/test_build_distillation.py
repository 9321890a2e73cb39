"""Wrong targets are refused before training starts; right ones become a loss."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from mvqkd.data.audio_cuts import AudioCuts
from mvqkd.data.codes import CodesInfo, write_codes
from mvqkd.data.embeddings import EmbeddingsInfo, write_embeddings
from mvqkd.distillation import (
    CodebookHead,
    JointCodebookHead,
    LayerDistillation,
    LossContext,
    RegressionHead,
    SoftCodebookHead,
    TiedCodebookHead,
)
from mvqkd.errors import UserError
from mvqkd.experiment import build_distillation
from mvqkd.experiment.build_distillation import Distillation, embedding_statistics
from mvqkd.experiment.config import DistillationConfig, ModelConfig
from mvqkd.experiment.teaching import TeachingFiles, teaching_files
from mvqkd.models import FULL_CONTEXT
from mvqkd.quantization import Quantizer
from tests.teachers.corpus import URI, make_corpus
from tests.training.helpers import make_batch

MODEL = ModelConfig(dim=8, num_layers=2)
CONFIG = DistillationConfig(
    method="mvq", teacher=URI, teacher_layer=2, layer=1, num_codebooks=2, scale=0.3
)


@pytest.fixture
def cuts(tmp_path: Path) -> Path:
    return make_corpus(tmp_path / "corpus", [0.5, 0.7], speed=True)


@pytest.fixture
def files(tmp_path: Path) -> TeachingFiles:
    return teaching_files(CONFIG, tmp_path / "data", tmp_path / "exp")


def teacher_lens(cuts: Path) -> dict[str, int]:
    """Frames of each utterance at 50 Hz."""
    audio = AudioCuts([cuts])
    return {name: n // 320 for name, n in zip(audio.ids, audio.num_samples.tolist(), strict=True)}


def make_codes(
    files: TeachingFiles,
    cuts: Path,
    *,
    ids: list[str] | None = None,
    changed: dict[str, int] | None = None,
    **fields: object,
) -> Path:
    """Codes of all cuts, and the quantizer that they are said to be of."""
    files.folder.mkdir(parents=True, exist_ok=True)
    quantizer = Quantizer(torch.zeros(12), torch.randn(2, 4, 12), metadata={})
    quantizer.save(files.quantizer)
    info = CodesInfo(
        teacher=files.teacher,
        layer=2,
        frame_rate=50.0,
        quantizer_id=quantizer.id,
        num_codebooks=2,
        codebook_size=4,
    )
    lens = teacher_lens(cuts) | (changed or {})
    names = list(lens) if ids is None else ids
    files.codes.mkdir()
    path = files.codes / "codes-0-of-1.h5"
    total = sum(lens[name] for name in names)
    with write_codes(path, info=replace(info, **fields), total_frames=total) as writer:  # type: ignore[arg-type]
        for name in names:
            writer.write(name, np.zeros((lens[name], 2), dtype=np.uint8))
    return path


def make_embeddings(
    files: TeachingFiles, cuts: Path, *, source: str = "embeddings", **fields: object
) -> Path:
    """Embeddings of all cuts: those that are learned from, or the sample of a live teacher."""
    random = np.random.default_rng(0)
    folder = files.sample if source == "teacher" else files.embeddings
    folder.mkdir(parents=True)
    path = folder / "embeddings-0-of-1.h5"
    lens = teacher_lens(cuts)
    info = replace(EmbeddingsInfo(files.teacher, 2, 50.0, 12), **fields)  # type: ignore[arg-type]
    with write_embeddings(
        path, info=info, total_frames=sum(lens.values()), dtype="float32"
    ) as writer:
        for name, frames in lens.items():
            writer.write(name, 5 + 3 * random.standard_normal((frames, 12)).astype(np.float32))
    return path


@pytest.fixture
def open_(files: TeachingFiles, cuts: Path) -> Callable[..., Distillation]:
    dev = make_corpus(cuts.parent, [0.5], name="dev")

    def open_(**fields: object) -> Distillation:
        return Distillation(
            replace(CONFIG, **fields),  # type: ignore[arg-type]
            MODEL,
            files,
            train_cuts=[cuts],
            dev_cuts=[dev],
            device=torch.device("cpu"),
        )

    return open_


def targets_of(distillation: Distillation, utterance: str) -> tuple[torch.Tensor, torch.Tensor]:
    """What the loss gets of an utterance of 12 student frames, and where there is any."""
    (loss,) = distillation.build().values()
    batch = make_batch(utterance)
    for name, source in distillation.sources.items():
        batch.targets[name] = source(batch.ids, [12])
    context = LossContext(lambda *_: None, batch, batch.features, FULL_CONTEXT)
    return loss.targets(context).padded(1)


def test_codes_become_a_codebook_loss(files, cuts, open_) -> None:
    make_codes(files, cuts)
    (loss,) = open_(masked_weight=2.0, unmasked_weight=0.5).build().values()
    assert isinstance(loss, LayerDistillation) and isinstance(loss.head, CodebookHead)
    assert loss.head.logits.out_features == 2 * 2 * 4  # two teacher frames of two codebooks of 4
    assert (loss.weight, list(loss.taps)) == (0.3, ["layers.1"])
    assert (loss.masked_weight, loss.unmasked_weight) == (2.0, 0.5)
    assert not loss.validates  # there are no codes of the dev cuts
    (joint,) = open_(prediction="joint").build().values()
    assert isinstance(joint.head, JointCodebookHead)
    (soft,) = open_(prediction="soft").build().values()
    assert isinstance(soft.head, SoftCodebookHead) and soft.head.shares.shape == (4, 4, 4)
    (tied,) = open_(prediction="tied").build().values()
    assert isinstance(tied.head, TiedCodebookHead)
    assert tied.head.centers.shape == (2, 4, 12) and len(tied.head.bias) == 2


def test_a_loss_with_targets_of_all_dev_cuts_is_validated(files, cuts, open_) -> None:
    make_codes(files, cuts, changed={"d0": 25})
    (loss,) = open_().build().values()
    assert loss.validates


@pytest.mark.parametrize(
    ("method", "source"),
    [("mvq", "codes"), ("l2", "codes"), ("l2", "embeddings"), ("l1", "teacher")],
)
def test_targets_of_every_source_are_delayed(files, cuts, open_, method, source) -> None:
    if source == "codes":
        make_codes(files, cuts)
    else:
        make_embeddings(files, cuts, source=source)
    _, present = targets_of(open_(method=method, source=source, delay=2), "c0")
    assert present[0].tolist() == [False] * 2 + [True] * 10


def test_embeddings_become_a_regression_in_units_of_the_teacher(files, cuts, open_) -> None:
    make_embeddings(files, cuts)
    (loss,) = open_(method="l2").build().values()
    assert isinstance(loss.head, RegressionHead)
    assert float(loss.head.scale) == pytest.approx(3.0, rel=0.05)
    assert loss.head.mean.numpy() == pytest.approx(np.full(12, 5.0), abs=1.5)


def test_the_units_are_those_of_the_training_utterances(files, cuts, open_) -> None:
    make_embeddings(files, cuts)
    path = files.embeddings / "embeddings-0-of-1.h5"
    with h5py.File(path, "a") as file:  # dev, which comes first in the order of files, is louder
        rows, offsets, ids = (file[name][:] for name in ("embeddings", "offsets", "ids"))
        attributes = dict(file.attrs)
    info = EmbeddingsInfo(**{name: attributes[name] for name in EmbeddingsInfo.__annotations__})
    path.unlink()
    with write_embeddings(path, info=info, total_frames=len(rows) + 40, dtype="float32") as writer:
        writer.write("dev", np.full((40, 12), 1000.0))
        for number, name in enumerate(ids):
            writer.write(name.decode(), rows[offsets[number] : offsets[number + 1]])
    (loss,) = open_(method="l2").build().values()
    assert float(loss.head.scale) == pytest.approx(3.0, rel=0.05)


def test_units_are_of_all_utterances_or_of_some_whatever_their_order(monkeypatch) -> None:
    random = np.random.default_rng(0)
    rows = {
        name: center + scale * random.standard_normal((30, 2))
        for name, center, scale in (("a", 0, 1), ("b", 5, 2), ("c", -9, 0.1))
    }
    mean, scale = embedding_statistics(rows.__getitem__, rows)
    every = np.concatenate(list(rows.values()))
    assert mean.numpy() == pytest.approx(every.mean(0), rel=1e-5)
    assert scale == pytest.approx(np.sqrt(every.var(0).mean()), rel=1e-5)
    monkeypatch.setattr(build_distillation, "_STATISTICS_FRAMES", 10)
    ((_, first), (_, second)) = (
        embedding_statistics(rows.__getitem__, ids) for ids in (list("abc"), list("cba"))
    )
    assert first == second != scale


def test_the_sample_tells_the_units_of_a_live_teacher(files, cuts, open_) -> None:
    make_embeddings(files, cuts, source="teacher")
    (loss,) = open_(method="l1", source="teacher").build().values()
    assert loss.validates
    for name in ("c0", "d0"):
        targets, present = targets_of(open_(method="l1", source="teacher"), name)
        assert targets.shape == (1, 12, 24) and present.any()


def test_codes_become_a_regression_too(files, cuts, open_) -> None:
    path = make_codes(files, cuts)
    quantizer = Quantizer.load(files.quantizer)
    wanted = quantizer.decode(torch.zeros(2, dtype=torch.uint8))
    for fields in ({}, {"targets": str(path)}, {"targets": str(path), "quantizer": "other.pt"}):
        if "quantizer" in fields:
            fields["quantizer"] = str(files.quantizer.rename(cuts.parent / fields["quantizer"]))
        opened = open_(method="cosine", source="codes", **fields)
        (loss,) = opened.build().values()
        assert isinstance(loss.head, RegressionHead)
        assert torch.equal(loss.head.mean, wanted)  # all codes are 0
        targets, present = targets_of(opened, "c0")
        assert torch.equal(targets[0, 0], torch.cat([wanted, wanted])) and present.all()


def test_codes_of_another_quantizer_are_not_decoded(files, cuts, open_) -> None:
    path = make_codes(files, cuts)
    Quantizer(torch.zeros(12), torch.randn(2, 4, 12)).save(files.quantizer)
    for fields in ({}, {"targets": str(path)}):
        with pytest.raises(UserError, match=r"quantizer_id .*, not "):
            open_(method="l2", source="codes", **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"teacher": "hf:other"}, "teacher hf:other, not"),
        ({"layer": 3}, "layer 3, not 2"),
        ({"quantizer_id": "0"}, "quantizer_id 0, not"),
        ({"rate_weight": 0.01}, "rate_weight 0.01, not 0"),
        ({"ids": ["c0", "c0_sp0.9", "c1"]}, "lacks codes of 1 utterances, as c1_sp0.9"),
        ({"frame_rate": 40.0}, "no integer ratio"),
        ({"changed": {"c1": 60}}, "utterance c1: 60 teacher frames"),
    ],
)
def test_codes_of_something_else_are_refused(files, cuts, open_, fields, message) -> None:
    path = make_codes(files, cuts, **fields)
    with pytest.raises(UserError, match=message):
        open_()
    if not fields.keys() & {"quantizer_id", "rate_weight"}:  # of files from elsewhere: anything
        with pytest.raises(UserError, match=message):
            open_(targets=str(path))


def test_codes_of_another_number_of_codebooks_are_refused(files, cuts, open_) -> None:
    make_codes(files, cuts)
    with pytest.raises(UserError, match="num_codebooks 2, not 4"):
        open_(num_codebooks=4)


def test_codes_from_elsewhere_have_the_rate_weight_that_is_asked_for(files, cuts, open_) -> None:
    path = str(make_codes(files, cuts, rate_weight=0.01))
    open_(targets=path)
    open_(targets=path, rate_weight=0.01)
    with pytest.raises(UserError, match=r"rate_weight 0\.01, not 0\.02"):
        open_(targets=path, rate_weight=0.02)


@pytest.mark.parametrize("prediction", ["independent", "soft", "tied"])
def test_codes_from_elsewhere_are_of_the_quantizer_that_is_named(
    files, cuts, open_, tmp_path, prediction
) -> None:
    path = str(make_codes(files, cuts))
    own, other = tmp_path / "own.pt", tmp_path / "other.pt"
    files.quantizer.rename(own)
    Quantizer(torch.zeros(12), torch.randn(2, 4, 12)).save(other)
    open_(targets=path, quantizer=str(own), prediction=prediction)
    with pytest.raises(UserError, match="quantizer_id"):
        open_(targets=path, quantizer=str(other), prediction=prediction)
    with pytest.raises(UserError, match=r"none.pt is missing"):
        open_(targets=path, quantizer=str(tmp_path / "none.pt"), prediction=prediction)


def test_a_missing_or_damaged_quantizer_is_named(files, cuts, open_) -> None:
    path = make_codes(files, cuts)
    files.quantizer.write_bytes(files.quantizer.read_bytes()[:100])
    with pytest.raises(UserError, match=r"quantizer-layer-2-cb2.pt is damaged"):
        open_()
    files.quantizer.unlink()
    with pytest.raises(UserError, match=r"quantizer-layer-2-cb2.pt is missing"):
        open_()
    open_(targets=str(path))  # codes from elsewhere need none
    for prediction in ("soft", "tied"):
        with pytest.raises(UserError, match=r"quantizer-layer-2-cb2.pt is missing"):
            open_(targets=str(path), prediction=prediction)


def test_differences_of_length_are_told(files, cuts, open_, caplog) -> None:
    caplog.set_level("INFO")
    lens = teacher_lens(cuts)
    make_codes(files, cuts, changed={"c1": lens["c1"] - 5})
    open_()
    (line,) = [line for line in caplog.messages if "teacher frames - 2 x" in line]
    counted = dict(re.findall(r"([+-]\d+) in (\d+)", line))
    assert sum(map(int, counted.values())) == len(lens) and counted["-2"] == "1"


def test_missing_and_truncated_codes_are_refused(files, cuts, open_) -> None:
    with pytest.raises(UserError, match="codes-layer-2-cb2"):
        open_()
    path = make_codes(files, cuts)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match="codes-0-of-1"):
        open_()


@pytest.mark.parametrize("source", ["embeddings", "teacher"])
@pytest.mark.parametrize(
    ("fields", "message"),
    [({"teacher": "hf:other"}, "teacher hf:other, not"), ({"layer": 3}, "layer 3, not 2")],
)
def test_embeddings_of_something_else_are_refused(
    files, cuts, open_, source, fields, message
) -> None:
    make_embeddings(files, cuts, source=source, **fields)
    with pytest.raises(UserError, match=message):
        open_(method="l2", source=source)


@pytest.mark.parametrize("source", ["embeddings", "teacher"])
def test_embeddings_that_are_not_finite_are_refused(files, cuts, open_, source) -> None:
    path = make_embeddings(files, cuts, source=source)
    with h5py.File(path, "r+") as file:
        file["embeddings"][-3, 3] = np.nan  # of the last utterance
    with pytest.raises(UserError, match=r"utterance c1_sp0\.9 have NaN or infinity"):
        open_(method="l2", source=source)
