"""Distillation at a layer: which targets frames have, with which weight."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from mvqkd.data.loading.batch import Batch
from mvqkd.data.targets.codes import CodesInfo, CodeStore, write_codes
from mvqkd.data.targets.frame_targets import FrameTargets
from mvqkd.data.targets.sources import StoredCodes
from mvqkd.distillation import (
    CodebookHead,
    EncoderPass,
    LayerDistillation,
    LossContext,
    StoredTargets,
)
from mvqkd.distillation.layer import masked_frames
from mvqkd.errors import UserError
from mvqkd.geometry import encoder_frames
from mvqkd.models import FULL_CONTEXT, ConformerEncoder
from mvqkd.models.taps import Taps
from mvqkd.training.sums import LossSums, per_frame
from tests.training.helpers import make_batch, make_objective, make_updater

FRAMES = {"a": 23, "b": 19, "c": 21}


class Numbers:
    """Targets t at frame t of each utterance, none in the frames of `without`."""

    def __init__(self, without: Sequence[int] = ()) -> None:
        self.without = list(without)

    def __call__(self, context: LossContext) -> FrameTargets:
        lens = context.lens
        present = torch.arange(int(lens.max())) < lens[:, None]
        present[:, self.without] = False
        utterances, frames = present.nonzero(as_tuple=True)
        return FrameTargets(frames[:, None].float(), utterances, frames, present.shape[1])


class Difference(nn.Module):
    """|x - target| of one dimension."""

    def forward(self, x: Tensor, targets: Tensor) -> Tensor:
        return (x - targets).abs().squeeze(1)


def made_up(x: Tensor, lens: Tensor, *names: str, time_mask: Tensor | None = None) -> LossContext:
    """A step in which layer 1 of the student is x."""
    taps = Taps(["layers.1"])
    taps.put("layers.1", x)
    batch = make_batch(*names)
    return LossContext(
        lambda *_: EncoderPass(x, lens, taps),
        batch,
        batch.features,
        FULL_CONTEXT,
        time_mask=time_mask,
    )


def test_sums_over_frames_that_have_targets() -> None:
    loss = LayerDistillation([1], [Difference()], Numbers(without=[1]), weight=1.0)
    lens = torch.tensor([4, 2])
    x = torch.zeros(2, 5, 1)  # one frame of padding more than the longest utterance
    found = loss(made_up(x, lens, "a", "b"))
    assert_close(found, torch.tensor([0.0 + 2 + 3, 0.0]))


def test_of_several_layers_it_is_the_mean() -> None:
    lens, names = torch.tensor([4]), ["layers.1", "layers.3"]
    taps = Taps(names)
    for name, value in zip(names, (0.0, 10.0), strict=True):
        taps.put(name, torch.full((1, 4, 1), value))
    batch = make_batch("a")
    context = LossContext(
        lambda *_: EncoderPass(torch.zeros(1, 4, 1), lens, taps),
        batch,
        batch.features,
        FULL_CONTEXT,
    )
    loss = LayerDistillation([1, 3], [Difference(), Difference()], Numbers(), weight=1.0)
    assert loss.taps == names
    alone = [
        LayerDistillation([layer], [Difference()], Numbers(), weight=1.0)(context)
        for layer in (1, 3)
    ]
    assert alone[0] != alone[1]
    assert_close(loss(context), (alone[0] + alone[1]) / 2)


def test_masked_and_unmasked_frames_have_their_weights() -> None:
    loss = LayerDistillation(
        [1], [Difference()], Numbers(), weight=1.0, masked_weight=10.0, unmasked_weight=0.5
    )
    lens = torch.tensor([4])
    time_mask = torch.zeros(1, 19, dtype=torch.bool)
    time_mask[0, 4 * 2 + 3] = True  # the middle of the input of encoder frame 2
    found = loss(made_up(torch.zeros(1, 4, 1), lens, "a", time_mask=time_mask))
    assert_close(found, torch.tensor([0.5 * (0 + 1 + 3) + 10 * 2]))
    without = loss(made_up(torch.zeros(1, 4, 1), lens, "a"))
    assert_close(without, torch.tensor([0.5 * (0 + 1 + 2 + 3)]))


def test_a_masked_frame_is_one_whose_input_is_masked_in_the_middle() -> None:
    """The middle frame has the largest influence, by the gradient of a random encoder's input."""
    torch.manual_seed(0)
    encoder = ConformerEncoder(dim=16, num_layers=1, num_heads=2, feedforward_dim=16, conv_kernel=3)
    features = torch.randn(1, 47, 80, requires_grad=True)
    out = encoder.eval().subsampling(features)
    influence = torch.zeros(out.shape[1], 47)
    for frame in range(out.shape[1]):
        (grad,) = torch.autograd.grad(out[0, frame].square().sum(), features, retain_graph=True)
        influence[frame] = grad[0].abs().sum(1)
    middles = [int(row.nonzero().float().mean()) for row in influence]
    for frame, middle in enumerate(middles):
        mask = torch.zeros(1, 47, dtype=torch.bool)
        mask[0, middle] = True
        assert masked_frames(mask, out.shape[1])[0].nonzero().flatten().tolist() == [frame]
    assert masked_frames(torch.ones(1, 5, dtype=torch.bool), 1).tolist() == [[True]]
    assert masked_frames(torch.ones(1, 2, dtype=torch.bool), 1).tolist() == [[False]]


@pytest.fixture
def store(tmp_path: Path) -> CodeStore:
    random = np.random.default_rng(0)
    info = CodesInfo("mvqkd:x", 1, 50.0, "q", num_codebooks=2, codebook_size=8)
    path = tmp_path / "codes.h5"
    with write_codes(path, info=info, total_frames=sum(FRAMES.values())) as writer:
        for name, frames in FRAMES.items():
            writer.write(name, random.integers(0, 8, (frames, 2), dtype=np.uint8))
    return CodeStore(path)


def distil() -> LayerDistillation:
    return LayerDistillation([1], [CodebookHead(16, 4, 8)], StoredTargets("codes"), weight=1.0)


def with_codes(batch: Batch, store: CodeStore, **options) -> Batch:
    """The batch as a loader with these targets makes it."""
    lens = encoder_frames(batch.feature_lens).tolist()
    batch.targets["codes"] = StoredCodes(store, **options)(batch.ids, lens)
    return batch


def test_in_an_objective_the_student_learns_the_codes(store: CodeStore) -> None:
    torch.manual_seed(0)
    objective = make_objective(distillation={"codes": distil()}, ctc_scale=0.2)
    batch = with_codes(make_batch("a", "b", frames=44), store)
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.01)
    history = []
    for _ in range(120):
        optimizer.zero_grad()
        losses = objective(batch)
        losses.total().backward()
        optimizer.step()
        history.append(float(losses.components["codes"] / losses.frames))
    assert history[0] > 1.9  # ln 8 = 2.08
    assert history[-1] < 0.7


def test_other_utterances_of_a_batch_change_nothing(store: CodeStore) -> None:
    objective = make_objective(distillation={"codes": distil()}).eval()

    def loss(*names: str) -> Tensor:
        batch = with_codes(make_batch(*names, frames=40), store, delay=1)
        return objective(batch).components["codes"]

    both, alone = loss("a", "b"), [loss(name) for name in "ab"]
    assert_close(both, sum(alone), rtol=1e-4, atol=1e-4)


def test_no_part_of_the_head_is_in_the_student(store: CodeStore) -> None:
    with_head = make_objective(distillation={"codes": distil()})
    without = make_objective()
    assert with_head.model.state_dict().keys() == without.model.state_dict().keys()


def test_without_targets_of_validation_data_it_is_left_out(store: CodeStore) -> None:
    loss = distil()
    loss.validates = False
    objective = make_objective(distillation={"codes": loss})
    assert "codes" in objective(with_codes(make_batch("a", frames=40), store)).components
    objective.eval()
    assert "codes" not in objective(make_batch("unknown", frames=40)).components


def test_an_utterance_without_codes_is_named(store: CodeStore) -> None:
    with pytest.raises(UserError, match="unknown"):
        with_codes(make_batch("unknown", frames=40), store)


def test_audio_without_transcripts_trains_the_encoder_alone(store: CodeStore) -> None:
    objective = make_objective(distillation={"codes": distil()})
    batch = with_codes(make_batch("a", "c", frames=40), store)
    silent = with_codes(make_batch("a", "c", frames=40, labelled=False), store)
    losses = objective(silent)
    assert list(losses.components) == ["codes"]
    assert_close(losses.components["codes"], objective(batch).components["codes"])
    losses.total().backward()
    for name, parameter in objective.named_parameters():
        assert parameter.grad is not None, name  # DistributedDataParallel waits for all
    moved = {name for name, p in objective.named_parameters() if p.grad.any()}
    assert any(name.startswith("model.encoder") for name in moved)
    assert not any(
        name.startswith(("model.transducer", "model.ctc", "head_losses")) for name in moved
    )


def test_losses_of_a_mixed_step_are_per_frame_of_their_own_batches(
    store: CodeStore, tmp_path: Path
) -> None:
    objective = make_objective(distillation={"codes": distil()})
    labelled = with_codes(make_batch("a", frames=40), store)
    silent = with_codes(make_batch("c", frames=40, labelled=False), store)
    sums, updater = LossSums(), make_updater(objective, log_dir=tmp_path)
    one, other = objective(labelled), objective(silent)
    sums.add(one)
    sums.add(other)
    means = per_frame(sums.over(updater.world, objective.components))
    assert means["pruned"] == pytest.approx(float(one.components["pruned"] / one.frames))
    frames = one.frames + other.frames
    both = (one.components["codes"] + other.components["codes"]) / frames
    assert means["codes"] == pytest.approx(float(both), rel=1e-5)
