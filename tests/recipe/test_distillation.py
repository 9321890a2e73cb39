"""Wrong targets are refused before training starts; right ones become a loss."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from mvqkd.data.targets.embeddings import EmbeddingsInfo, write_embeddings
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
from mvqkd.models import FULL_CONTEXT
from mvqkd.quantization import Quantizer
from mvqkd.recipe import distillation
from mvqkd.recipe.config.schema import CodesConfig, EmbeddingsConfig, QuantizerConfig
from mvqkd.recipe.distillation import (
    OpenedLoss,
    Utterances,
    count_frames,
    embedding_statistics,
    open_loss,
)
from mvqkd.recipe.remedies import tell
from mvqkd.recipe.teacher_files import TeacherFiles, teacher_files
from tests.recipe.targets import make_codes, make_embeddings, teacher_lens
from tests.teachers.corpus import URI, make_corpus
from tests.training.helpers import make_batch

OPTIONS: dict[str, Any] = dict(teacher=URI, teacher_layer=2, layer=[1], weight=0.3)
DIM = 8


@pytest.fixture
def cuts(tmp_path: Path) -> Path:
    return make_corpus(tmp_path / "corpus", [0.5, 0.7], speed=True)


@pytest.fixture
def files(tmp_path: Path) -> TeacherFiles:
    loss = CodesConfig(**OPTIONS, quantizer=QuantizerConfig(num_codebooks=2))
    return teacher_files(loss, tmp_path / "data", tmp_path / "exp")


@pytest.fixture
def open_(files: TeacherFiles, cuts: Path) -> Callable[..., OpenedLoss]:
    """Opens the loss of a kind, with options of the section and of its quantizer."""
    dev = make_corpus(cuts.parent, [0.5], name="dev")
    kinds = {"codes": CodesConfig, "embeddings": EmbeddingsConfig}

    def open_(kind: str = "codes", **options: Any) -> OpenedLoss:
        names = options.keys() & QuantizerConfig.__annotations__.keys()
        quantizer = {"num_codebooks": 2} | {name: options.pop(name) for name in names}
        section = kinds[kind](**{**OPTIONS, **options}, quantizer=QuantizerConfig(**quantizer))
        return open_loss(
            kind,
            section,
            files,
            utterances=Utterances(train=count_frames([cuts]), dev=count_frames([dev])),
            cuts=[cuts, dev],
            device=torch.device("cpu"),
        )

    return open_


def targets_of(
    utterance: str, name: str, losses: dict[str, OpenedLoss]
) -> tuple[torch.Tensor, torch.Tensor]:
    """What a loss gets of an utterance of 12 student frames, and where there is any; the batch has
    the targets of all losses."""
    batch = make_batch(utterance)
    for other, opened in losses.items():
        batch.targets[other] = opened.source(batch.ids, [12])
    context = LossContext(lambda *_: None, batch, batch.features, FULL_CONTEXT)
    return losses[name].build(DIM).targets(context).padded(1)


def test_codes_become_a_codebook_loss(files, cuts, open_) -> None:
    make_codes(files, cuts)
    opened = open_(masked_weight=2.0, unmasked_weight=0.5)
    loss = opened.build(DIM)
    assert isinstance(loss, LayerDistillation) and isinstance(loss.heads[0], CodebookHead)
    assert (
        loss.heads[0].logits.out_features == 2 * 2 * 4
    )  # two teacher frames of two codebooks of 4
    assert (loss.weight, list(loss.taps)) == (0.3, ["layers.1"])
    assert (loss.masked_weight, loss.unmasked_weight) == (2.0, 0.5)
    assert not opened.validates and not loss.validates  # there are no codes of the dev cuts
    assert opened.description["num_codebooks"] == 2
    assert opened.description["bytes_per_hour"] > 50 * 3600 * 2  # such a file is mostly header
    joint = open_(prediction="joint").build(DIM)
    assert isinstance(joint.heads[0], JointCodebookHead)
    soft = open_(prediction="soft").build(DIM)
    assert isinstance(soft.heads[0], SoftCodebookHead) and soft.heads[0].shares.shape == (4, 4, 4)
    tied = open_(prediction="tied").build(DIM)
    assert isinstance(tied.heads[0], TiedCodebookHead)
    assert tied.heads[0].centers.shape == (2, 4, 12) and len(tied.heads[0].bias) == 2


def test_a_loss_with_targets_of_all_dev_cuts_is_validated(files, cuts, open_) -> None:
    make_codes(files, cuts, changed={"d0": 25})
    opened = open_()
    assert opened.validates and opened.build(DIM).validates


SOURCES = [
    ("codes", {}),
    ("embeddings", {"source": "codes"}),
    ("embeddings", {"source": "embeddings"}),
    ("embeddings", {"source": "online"}),
]


@pytest.mark.parametrize(("kind", "options"), SOURCES)
def test_a_delay_that_leaves_no_target_is_refused(files, cuts, open_, kind, options) -> None:
    with pytest.raises(UserError, match="no frame has a target") as error:
        open_(kind, target_delay=99999, **options)
    assert "target_delay" in tell(error.value)


@pytest.mark.parametrize(("kind", "options"), SOURCES)
def test_targets_of_every_source_are_delayed(files, cuts, open_, kind, options) -> None:
    source = options.get("source", "codes")
    if source == "codes":
        make_codes(files, cuts)
    else:
        make_embeddings(files, cuts, source=source)
    opened = open_(kind, target_delay=2, **options)
    _, present = targets_of("c0", kind, {kind: opened})
    assert present[0].tolist() == [False] * 2 + [True] * 10


def test_embeddings_become_a_regression_in_units_of_the_teacher(files, cuts, open_) -> None:
    make_embeddings(files, cuts)
    loss = open_("embeddings").build(DIM)
    assert isinstance(loss.heads[0], RegressionHead)
    assert float(loss.heads[0].scale) == pytest.approx(3.0, rel=0.05)
    assert loss.heads[0].mean.numpy() == pytest.approx(np.full(12, 5.0), abs=1.5)


def test_a_constant_teacher_is_refused(files, cuts, open_) -> None:
    make_embeddings(files, cuts, spread=0.0)
    with pytest.raises(UserError, match="deviation 0"):
        open_("embeddings")


def test_the_units_are_those_of_the_training_utterances(files, cuts, open_) -> None:
    make_embeddings(files, cuts)
    path = files.embeddings / "embeddings-0-of-1.h5"
    with h5py.File(path, "a") as file:  # dev, which comes first in the order of files, is louder
        rows, offsets, ids = (file[name][:] for name in ("embeddings", "offsets", "ids"))
        attributes = dict(file.attrs)
    known = EmbeddingsInfo.__annotations__.keys() & attributes.keys()
    info = EmbeddingsInfo(**{name: attributes[name] for name in known})
    path.unlink()
    with write_embeddings(path, info=info, total_frames=len(rows) + 40, dtype="float32") as writer:
        writer.write("dev", np.full((40, 12), 1000.0))
        for number, name in enumerate(ids):
            writer.write(name.decode(), rows[offsets[number] : offsets[number + 1]])
    loss = open_("embeddings").build(DIM)
    assert float(loss.heads[0].scale) == pytest.approx(3.0, rel=0.05)


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
    monkeypatch.setattr(distillation, "_STATISTICS_FRAMES", 10)
    ((_, first), (_, second)) = (
        embedding_statistics(rows.__getitem__, ids) for ids in (list("abc"), list("cba"))
    )
    assert first == second != scale


def test_the_sample_tells_the_units_of_a_live_teacher(files, cuts, open_) -> None:
    make_embeddings(files, cuts, source="online")
    opened = open_("embeddings", source="online", distance="l1")
    assert opened.validates and opened.build(DIM).validates
    assert opened.description["bytes_per_hour"] == 0
    for name in ("c0", "d0"):
        targets, present = targets_of(name, "embeddings", {"embeddings": opened})
        assert targets.shape == (1, 12, 24) and present.any()


def test_codes_become_a_regression_too(files, cuts, open_) -> None:
    path = make_codes(files, cuts)
    quantizer = Quantizer.load(files.quantizer)
    wanted = quantizer.decode(torch.zeros(2, dtype=torch.uint8))
    for fields in ({}, {"targets": str(path)}, {"targets": str(path), "file": "other.pt"}):
        if "file" in fields:
            fields["file"] = str(files.quantizer.rename(cuts.parent / fields["file"]))
        opened = open_("embeddings", distance="cosine", source="codes", **fields)
        loss = opened.build(DIM)
        assert isinstance(loss.heads[0], RegressionHead)
        # All codes are 0, but 1 in the last utterance.
        names = list(lens := teacher_lens(cuts))
        share = lens[names[-1]] / sum(lens.values())
        other = quantizer.decode(torch.ones(2, dtype=torch.uint8))
        torch.testing.assert_close(loss.heads[0].mean, wanted + share * (other - wanted))
        targets, present = targets_of("c0", "embeddings", {"embeddings": opened})
        assert torch.equal(targets[0, 0], torch.cat([wanted, wanted])) and present.all()


def test_codes_of_another_quantizer_are_not_decoded(files, cuts, open_) -> None:
    path = make_codes(files, cuts)
    Quantizer(torch.zeros(12), torch.randn(2, 4, 12)).save(files.quantizer)
    for fields in ({}, {"targets": str(path)}):
        with pytest.raises(UserError, match=r"quantizer_id .*, not "):
            open_("embeddings", source="codes", **fields)


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
    open_(targets=path, rate_distortion_weight=0.01)
    with pytest.raises(UserError, match=r"rate_weight 0\.01, not 0\.02"):
        open_(targets=path, rate_distortion_weight=0.02)


@pytest.mark.parametrize("prediction", ["independent", "soft", "tied"])
def test_codes_from_elsewhere_are_of_the_quantizer_that_is_named(
    files, cuts, open_, tmp_path, prediction
) -> None:
    path = str(make_codes(files, cuts))
    own, other = tmp_path / "own.pt", tmp_path / "other.pt"
    files.quantizer.rename(own)
    Quantizer(torch.zeros(12), torch.randn(2, 4, 12)).save(other)
    open_(targets=path, file=str(own), prediction=prediction)
    with pytest.raises(UserError, match="quantizer_id"):
        open_(targets=path, file=str(other), prediction=prediction)
    with pytest.raises(UserError, match=r"none.pt is missing"):
        open_(targets=path, file=str(tmp_path / "none.pt"), prediction=prediction)


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


def test_differences_of_length_are_reported(files, cuts, open_, caplog) -> None:
    caplog.set_level("INFO")
    lens = teacher_lens(cuts)
    make_codes(files, cuts, changed={"c1": lens["c1"] - 5})
    open_()
    (line,) = [line for line in caplog.messages if "teacher frames - 2 x" in line]
    counted = dict(re.findall(r"([+-]\d+) in (\d+)", line))
    assert sum(map(int, counted.values())) == len(lens) and counted["-2"] == "1"


def test_missing_and_truncated_codes_are_refused(files, cuts, open_, tmp_path) -> None:
    with pytest.raises(UserError, match=r"quantizer-layer-2-cb2.pt is missing"):
        open_()  # of the stage before
    path = make_codes(files, cuts)
    files.codes.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="codes-layer-2-cb2"):
        open_()
    (tmp_path / "elsewhere").rename(files.codes)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match="codes-0-of-1"):
        open_()


@pytest.mark.parametrize("source", ["embeddings", "online"])
@pytest.mark.parametrize(
    ("fields", "message"),
    [({"teacher": "hf:other"}, "teacher hf:other, not"), ({"layer": 3}, "layer 3, not 2")],
)
def test_embeddings_of_something_else_are_refused(
    files, cuts, open_, source, fields, message
) -> None:
    make_embeddings(files, cuts, source=source, **fields)
    with pytest.raises(UserError, match=message):
        open_("embeddings", source=source)


def test_opening_reads_a_sample_of_the_embeddings_and_no_more(files, cuts, open_, monkeypatch):
    monkeypatch.setattr(distillation, "_STATISTICS_FRAMES", 10)  # of one utterance
    path = make_embeddings(files, cuts)
    with h5py.File(path, "r+") as file:
        file["embeddings"][-3, 3] = np.nan  # of the last utterance
    opened = open_("embeddings")
    lens = {name: length // 2 for name, length in teacher_lens(cuts).items()}
    opened.source(["c0"], [lens["c0"]])
    with pytest.raises(UserError, match=r"utterance c1_sp0\.9 are not what was written"):
        opened.source(["c0", "c1_sp0.9"], [lens["c0"], lens["c1_sp0.9"]])


def test_a_damaged_sample_of_an_online_teacher_is_refused(files, cuts, open_) -> None:
    path = make_embeddings(files, cuts, source="online")
    with h5py.File(path, "r+") as file:
        file["embeddings"][-3, 3] = np.nan
    with pytest.raises(UserError, match=r"utterance c1_sp0\.9 are not what was written"):
        open_("embeddings", source="online")


def test_two_losses_stand_together(files, cuts, open_) -> None:
    make_codes(files, cuts)
    make_embeddings(files, cuts)
    losses = {
        "codes": open_("codes", target_delay=1),
        "embeddings": open_("embeddings", layer=[2], weight=10.0),
    }
    codes, embeddings = (losses[name].build(DIM) for name in losses)
    assert (codes.weight, list(codes.taps)) == (0.3, ["layers.1"])
    assert (embeddings.weight, list(embeddings.taps)) == (10.0, ["layers.2"])
    targets, present = targets_of("c0", "codes", losses)
    assert targets.shape == (1, 12, 4) and not targets.any()  # all codes are 0
    assert present[0].tolist() == [False] + [True] * 11
    targets, present = targets_of("c0", "embeddings", losses)
    assert targets.shape == (1, 12, 24) and present.all()
    assert targets.mean() == pytest.approx(5, abs=1)
