"""Layers of teachers of audio at the student's frame rate, and stored ones."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from mvqkd.data.targets.frame_targets import Waveforms, pack
from mvqkd.data.targets.teacher_frames import Pairing
from mvqkd.distillation import AudioLayers, AuxiliaryLayers, StoredLayer, StoredTargets
from mvqkd.distillation.foreign_layers import normalized
from mvqkd.distillation.imitation import feature_loss, future_loss
from mvqkd.distillation.relations import relation_loss
from mvqkd.models.auxiliary_branch import AuxiliaryBranch
from mvqkd.teachers.interface import Embeddings
from tests.training.helpers import make_batch, make_objective

LENS, STUDENT_LENS = torch.tensor([14, 11]), [7, 6]
PARTS = ("query", "key", "value")


class Teacher:
    """14 and 11 frames of 6 dimensions; a sample is a frame."""

    frame_rate, first_frame, dim = 50.0, 0.0, 6

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        keys: list[Any] = [2, *((2, part) for part in PARTS)]
        self.layers = {key: 5 * torch.randn(2, 14, 6, generator=generator) + 3 for key in keys}

    def output_lens(self, lens: Tensor) -> Tensor:
        return lens

    def __call__(self, waveforms: Tensor, lens: Tensor) -> Embeddings:
        return Embeddings(self.layers, lens)


def context(name: str = "layers", views: int = 1, **targets: Any) -> Any:
    audio = Waveforms(torch.zeros(2, 14), LENS, LENS.tolist(), STUDENT_LENS)
    batch = SimpleNamespace(ids=["a", "b"] * views, views=views, targets={name: audio, **targets})
    if views > 1:
        batch.targets = {key: value.repeat(views, 2) for key, value in batch.targets.items()}
    return SimpleNamespace(batch=SizedBatch(batch))


class SizedBatch:
    def __init__(self, fields: SimpleNamespace) -> None:
        self.__dict__.update(vars(fields))

    def __len__(self) -> int:
        return len(self.ids)


@pytest.mark.parametrize("offset", [0, 1, -1, 2])
def test_frames_are_grouped_as_stored_ones_are(offset: int) -> None:
    pairing, teacher = Pairing(2, offset), Teacher()
    found = AudioLayers("layers", teacher, [2], pairing=pairing, num_heads=2)(context())
    rows = [teacher.layers[2][n, :length] for n, length in enumerate(LENS.tolist())]
    packed = pack(["a", "b"], rows, STUDENT_LENS, pairing=pairing, source="x")
    wanted, present = packed.padded(2)
    wanted = normalized(wanted.unflatten(2, (2, 6))).flatten(2)
    frames = torch.arange(7)
    inside = (frames >= found.first) & (frames < found.lens[:, None])
    assert torch.equal(inside, present)
    assert_close(found.taps["layers.2"][inside], wanted[present])
    stored = StoredLayer(2, StoredTargets("layers"), pairing)(context(layers=packed))
    assert stored.first == found.first and torch.equal(stored.lens, found.lens)
    assert_close(stored.taps["layers.2"][inside], wanted[present])


def test_heads_have_the_frames_of_a_group_side_by_side() -> None:
    teacher = Teacher()
    found = AudioLayers("layers", teacher, [2], pairing=Pairing(2, 1), num_heads=3)(context())
    queries = found.taps["layers.2.query"]
    assert queries.shape == (2, 3, 7, 4)
    raw = teacher.layers[2, "query"]
    # Head 1 has the dimensions 2 and 3; student frame 4 the teacher frames 9 and 10.
    assert_close(queries[1, 1, 4], torch.cat([raw[1, 9, 2:4], raw[1, 10, 2:4]]))
    without = AudioLayers("layers", teacher, [2], pairing=Pairing(2, 1), num_heads=None)(context())
    assert "layers.2.query" not in without.taps


def test_views_have_one_pass() -> None:
    layers = AudioLayers("layers", Teacher(), [2], pairing=Pairing(2, 1), num_heads=2)
    once, twice = layers(context()), layers(context(views=2))
    assert_close(twice.taps["layers.2"], once.taps["layers.2"].repeat(2, 1, 1))
    assert_close(twice.taps["layers.2.key"], once.taps["layers.2.key"].repeat(2, 1, 1, 1))
    assert torch.equal(twice.lens, once.lens.repeat(2))


@pytest.mark.parametrize("first", [0, 1])
def test_losses_are_of_the_frames_that_have_targets(first: int) -> None:
    """Frames of the student before the first and from the end of the teacher on count nothing."""
    torch.manual_seed(0)
    branch = AuxiliaryBranch(input_dim=16, dim=12, num_heads=2, feedforward_dim=8, dropout=0, gap=2)
    layers = AudioLayers("layers", Teacher(), [2], pairing=Pairing(2, -first), num_heads=2)
    targets = layers(context())
    seen: dict[str, Any] = {}

    def teacher(of: Any) -> Any:
        seen["context"] = of
        return targets

    weights = {"feature_weight": 0.3, "relation_weight": 0.2, "future_weight": 0.1}
    loss = AuxiliaryLayers([(2, 1)], [branch], teacher, **weights, shift=2)
    objective = make_objective(distillation={"layers": loss}, causal=True).eval()
    batch = make_batch("a", "b", frames=36)
    found = objective(batch, chunk_size=2).components["layers"]
    of = seen["context"]
    made = branch(of.taps["layers.1"], of.lens)
    total = torch.zeros(())
    for n, end in enumerate(targets.lens.tolist()):
        one, h = slice(n, n + 1), targets.taps["layers.2"][n : n + 1, first:end]
        frames = torch.tensor([end - first])
        total = total + 0.3 * feature_loss(made.out[one, first:end], h, frames).sum()
        total = total + 0.1 * future_loss(made.future[one, first:end], h, frames, 2).sum()
        for part in PARTS:
            q = made.taps[f"attention.{part}"][one, :, first:end]
            p = targets.taps[f"layers.2.{part}"][one, :, first:end]
            total = total + 0.2 * relation_loss(q, p, frames).sum()
    assert_close(found, total.detach())
