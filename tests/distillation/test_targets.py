"""Targets from files and from a teacher beside the student are the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from mvqkd.data.loading.audio_cuts import AudioCuts
from mvqkd.data.targets.codes import CodesInfo, CodeStore, write_codes
from mvqkd.data.targets.embeddings import EmbeddingsInfo, EmbeddingStore, write_embeddings
from mvqkd.data.targets.frame_targets import TargetSource
from mvqkd.data.targets.sources import StoredAudio, StoredCodes, StoredEmbeddings
from mvqkd.data.targets.teacher_frames import Pairing, match_frames, require_ratio
from mvqkd.distillation import DecodedCodes, LossContext, OnlineTeacher, StoredTargets
from mvqkd.distillation.layer import TeacherTargets
from mvqkd.errors import UserError
from mvqkd.models import FULL_CONTEXT
from mvqkd.quantization import Quantizer
from mvqkd.teachers import load_teacher
from mvqkd.teachers.audio import embed
from tests.teachers.corpus import URI, Multiplied, make_corpus
from tests.training.helpers import make_batch


def in_a_step(
    source: TargetSource, targets: TeacherTargets, ids: list[str], lens: Tensor
) -> tuple[Tensor, Tensor]:
    """What the loader's workers and the loss make of a batch, padded; and where there is any."""
    batch = make_batch(*ids)
    batch.targets["x"] = source(ids, lens.tolist())
    context = LossContext(lambda *_: None, batch, batch.features, FULL_CONTEXT)
    return targets(context).padded(len(ids))


@pytest.mark.parametrize("delay", [0, 2])
def test_stored_and_online_embeddings_agree(tmp_path: Path, delay: int) -> None:
    cuts = AudioCuts([make_corpus(tmp_path / "corpus", [0.5, 1.3, 0.9], speed=True)])
    teacher = load_teacher(URI, [2])
    info = EmbeddingsInfo(URI, 2, teacher.frame_rate, teacher.dim, teacher.first_frame)
    frames = teacher.output_lens(torch.from_numpy(cuts.num_samples))
    path = tmp_path / "embeddings.h5"
    with write_embeddings(path, info=info, total_frames=int(frames.sum()), dtype="float32") as out:
        for number, layers in embed(
            teacher,
            cuts,
            range(len(cuts)),
            device=torch.device("cpu"),
            max_duration=10.0,
        ):
            out.write(cuts.ids[number], layers[2].numpy())
    ids = [cuts.ids[number] for number in (2, 0, 1)]
    lens = torch.tensor([int(frames[number]) // 2 for number in (2, 0, 1)])
    source = StoredEmbeddings(EmbeddingStore(path), delay=delay)
    stored, present = in_a_step(source, StoredTargets("x"), ids, lens)
    teacher_beside = OnlineTeacher("x", teacher, 2, delay=delay)
    online, there = in_a_step(StoredAudio(cuts), teacher_beside, ids, lens)
    assert torch.equal(present, there)
    # Pairs begin with the second frame of the teacher: there may be one less.
    pairs = [(int(frames[number]) - 1) // 2 for number in (2, 0, 1)]
    assert present.sum(1).tolist() == torch.minimum(torch.tensor(pairs), lens - delay).tolist()
    assert_close(stored, online, rtol=1e-4, atol=1e-5)
    # Frame t holds the teacher's frames 2 (t - delay) + 1, centred at 30 ms, and the one after it.
    original = EmbeddingStore(path)[ids[0]]
    wanted = np.concatenate([original[7], original[8]])
    assert_close(stored[0, 3 + delay], torch.from_numpy(wanted))


@pytest.mark.parametrize("delay", [0, 2])
def test_decoded_codes_are_the_embeddings_that_they_stand_for(tmp_path: Path, delay: int) -> None:
    quantizer = Quantizer(torch.randn(3), torch.randn(2, 8, 3))
    codes = {"a": torch.randint(0, 8, (11, 2)), "b": torch.randint(0, 8, (8, 2))}
    with write_codes(
        tmp_path / "codes.h5",
        info=CodesInfo("hf:one", 2, 50.0, quantizer.id, 2, 8),
        total_frames=19,
    ) as coded:
        for utterance, rows in codes.items():
            coded.write(utterance, rows.numpy().astype(np.uint8))
    info = EmbeddingsInfo("hf:one", 2, 50.0, 3)
    with write_embeddings(
        tmp_path / "decoded.h5", info=info, total_frames=19, dtype="float32"
    ) as decoded:
        for utterance, rows in codes.items():
            decoded.write(utterance, quantizer.decode(rows).numpy())
    store = CodeStore(tmp_path / "codes.h5")
    ids, lens = ["b", "a"], torch.tensor([4, 7])  # of a longer one, the last frames have no teacher
    source = StoredCodes(store, delay=delay)
    decoded = DecodedCodes("x", quantizer, source.pairing.ratio)
    targets, present = in_a_step(source, decoded, ids, lens)
    stored = StoredEmbeddings(EmbeddingStore(tmp_path / "decoded.h5"), delay=delay)
    wanted, there = in_a_step(stored, StoredTargets("x"), ids, lens)
    assert torch.equal(present, there) and torch.equal(targets, wanted)


def test_an_online_teacher_is_not_rounded_to_the_precision_of_its_student(tmp_path: Path) -> None:
    cuts = AudioCuts([make_corpus(tmp_path / "corpus", [0.5], speed=True)])
    teacher = Multiplied([1])
    online = OnlineTeacher("x", teacher, 1)
    lens = teacher.output_lens(torch.from_numpy(cuts.num_samples)) // 2
    assert len(cuts) > 1  # copies at other speeds are read through convolutions
    exact, _ = in_a_step(StoredAudio(cuts), online, cuts.ids, lens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = in_a_step(StoredAudio(cuts), online, cuts.ids, lens)
    assert torch.equal(found, exact)


def test_views_of_an_utterance_have_one_pass_of_an_online_teacher(tmp_path: Path) -> None:
    cuts = AudioCuts([make_corpus(tmp_path / "corpus", [0.5, 0.9])])
    teacher, passes = Multiplied([1]), []
    teacher.register_forward_hook(lambda _, args, __: passes.append(len(args[0])))
    batch = make_batch(*cuts.ids)
    lens = teacher.output_lens(torch.from_numpy(cuts.num_samples)) // 2
    batch.targets["x"] = StoredAudio(cuts)(cuts.ids, lens.tolist())
    once, twice = (
        OnlineTeacher("x", teacher, 1)(
            LossContext(lambda *_: None, views, views.features, FULL_CONTEXT)
        ).padded(len(views))[0]
        for views in (batch, batch.repeat(2))
    )
    assert torch.equal(twice, torch.cat([once, once]))
    assert passes == [2, 2]


def test_an_utterance_without_audio_is_named(tmp_path: Path) -> None:
    cuts = AudioCuts([make_corpus(tmp_path / "corpus", [0.5])])
    with pytest.raises(UserError, match="nobody"):
        StoredAudio(cuts)(["nobody"], [10])


def test_other_embeddings_than_those_configured_are_refused(tmp_path: Path) -> None:
    info = EmbeddingsInfo("hf:one", 2, 50.0, 3)
    path = tmp_path / "embeddings.h5"
    with write_embeddings(path, info=info, total_frames=4) as writer:
        writer.write("a", np.zeros((4, 3), dtype=np.float32))
    store = EmbeddingStore(path)
    store.require(ids=["a"], teacher="hf:one", layer=2)
    for wrong, message in (
        ({"teacher": "hf:two"}, "hf:one, not hf:two"),
        ({"layer": 3}, "layer 2, not 3"),
        ({"ids": ["a", "b"]}, "lacks embeddings of 1 utterances, as b"),
    ):
        with pytest.raises(UserError, match=message):
            store.require(**wrong)  # type: ignore[arg-type]


def test_lengths_may_differ_by_a_few_frames() -> None:
    def match(teacher_len: int, delay: int = 0) -> tuple[int, int, int]:
        pairing = Pairing(ratio=2, delay=delay)
        return match_frames("a", teacher_len, 10, pairing=pairing, tolerance=1, source="x")

    assert match(19) == (0, 9, 0)
    assert match(22) == (0, 10, 0)
    with pytest.raises(UserError, match="utterance a: 23 teacher frames in x but 10"):
        match(23)
    assert match(20, delay=3) == (3, 7, 0)
    assert match(20, delay=12) == (12, 0, 0)


def test_frame_rates_need_an_integer_ratio() -> None:
    assert require_ratio(50.0, 25.0) == 2
    assert require_ratio(25.0, 25.0) == 1
    with pytest.raises(UserError, match="no integer ratio"):
        require_ratio(40.0, 25.0)
