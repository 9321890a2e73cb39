"""Cosine and relations of layers and branches, against what their parts give."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from mvqkd.distillation import EncoderTeacher
from mvqkd.distillation.relations import relation_loss
from mvqkd.distillation.similarity import LinearMap, cosine_sum, relation_sum
from mvqkd.evaluation.layer_pictures import draw_layers
from mvqkd.models import Taps
from mvqkd.recipe.stages.layer_similarity import similarities
from tests.distillation.test_auxiliary import PAIRS, auxiliary, encoder, student
from tests.training.helpers import make_batch

BATCHES = [make_batch(name, name * 2, frames=60) for name in "abcdef"]


def test_a_map_finds_another_basis_and_an_offset() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 5, generator=generator)
    y = x @ torch.randn(5, 3, generator=generator) + torch.randn(3, generator=generator)
    found = LinearMap()
    found.add(x[:200], y[:200])
    found.add(x[200:300], y[200:300])
    assert cosine_sum(found(x[300:]), y[300:]) == pytest.approx(100, abs=0.05)
    with pytest.raises(ValueError, match="no frames"):
        LinearMap()(x)


def test_a_map_is_of_all_frames_that_were_added() -> None:
    x, y = torch.randn(2, 40, 3, generator=torch.Generator().manual_seed(0))
    one, other = LinearMap(), LinearMap()
    one.add(x[:20], y[:20])
    one(x)
    one.add(x[20:], y[20:])
    other.add(x, y)
    assert_close(one(x), other(x))


@torch.no_grad()
def test_rows_are_of_layers_and_of_branches() -> None:
    objective = student(auxiliary())
    teacher = EncoderTeacher(encoder(), [1, 3])
    rows = similarities(objective, teacher, PAIRS, BATCHES)
    assert [(row["teacher_layer"], row["layer"], row["of"]) for row in rows] == [
        (1, 1, "layer"),
        (3, 2, "layer"),
        (1, 1, "branch"),
        (3, 2, "branch"),
    ]
    assert all(-1 < row["values"][0] < 1 and row["values"][1] > 0 for row in rows)
    # The branch of the second pair on the measured batches.
    branch, total, nats, count = objective.distillation["layers"].branches[1], 0.0, 0.0, 0
    for batch in BATCHES[1::2]:
        taps = Taps(["layers.2"])
        _, lens = objective.model.encoder(
            batch.features, batch.feature_lens, chunk_size=2, left_context=4, taps=taps
        )
        wanted = Taps(teacher.names)
        teacher.encoder(batch.features, batch.feature_lens, taps=wanted)
        made = branch(taps["layers.2"], lens)
        for n, length in enumerate(lens.tolist()):
            pair = made.out[n, :length], wanted["layers.3"][n, :length]
            total += float(torch.cosine_similarity(*pair, dim=1).sum())
        for part in ("query", "key", "value"):
            sides = made.taps[f"attention.{part}"], wanted[f"layers.3.{part}"]
            nats += float(relation_loss(*sides, lens).sum())
        count += int(lens.sum())
    assert rows[3]["values"] == [pytest.approx(total / count), pytest.approx(nats / count)]


def test_without_branches_there_are_layers_alone() -> None:
    rows = similarities(student(), EncoderTeacher(encoder(), [1, 3]), PAIRS, BATCHES)
    assert {row["of"] for row in rows} == {"layer"}


def test_a_teacher_is_like_itself() -> None:
    objective = student()
    own = EncoderTeacher(objective.model.encoder, [1, 2])
    objective.chunk_sizes = [-1]
    rows = similarities(objective, own, [(1, 1), (2, 2)], BATCHES)
    for row in rows:
        assert row["values"][0] > 0.99
        assert row["values"][1] == pytest.approx(0, abs=1e-4)


def test_heads_that_cannot_be_regrouped_have_no_relations() -> None:
    taps = {name: Taps([f"x.{part}" for part in ("query", "key", "value")]) for name in "ab"}
    for name, heads in (("a", 2), ("b", 5)):
        for part in taps[name].names:
            taps[name].put(part, torch.randn(1, heads, 4, 3))
    assert relation_sum(taps["a"], taps["b"], torch.tensor([4]), ("x", "x")) is None
    assert_close(relation_sum(taps["a"], taps["a"], torch.tensor([4]), ("x", "x")), 0.0)


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    rows = [
        {"teacher_layer": 2, "layer": 1, "of": "layer", "values": [0.5, 1.0]},
        {"teacher_layer": 2, "layer": 1, "of": "branch", "values": [0.7, None]},
    ]
    draw_layers(tmp_path / "a.png", {"x": rows, "y": rows[:1]})
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
