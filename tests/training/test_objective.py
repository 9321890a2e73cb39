"""What is minimized."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from mvqkd.losses import ctc_loss
from mvqkd.training.objective import Objective
from tests.training.helpers import Imitation, make_batch, make_objective, make_updater


def test_total_is_the_weighted_sum_per_frame():
    objective = make_objective(auxiliary={"imitation": Imitation()}, simple_scale=0.3)
    batch = make_batch("a", "b")
    losses = objective(batch, step=2, time_mask=torch.zeros(2, 1))  # of four steps of warm-up
    parts = losses.parts
    assert list(parts) == objective.part_names == ["simple", "pruned", "ctc", "imitation"]
    assert losses.frames == objective.student.encoder.output_lens(batch.feature_lens).sum()
    total = 0.65 * parts["simple"] + 0.55 * parts["pruned"] + 0.2 * parts["ctc"]
    assert_close(losses.total * losses.frames, total + 2 * parts["imitation"])
    after = objective(batch)  # weights after the warm-up
    total = 0.3 * parts["simple"] + parts["pruned"] + 0.2 * parts["ctc"]
    assert_close(after.total * losses.frames, total + 2 * parts["imitation"])


def test_parts_add_up_over_batches():
    objective = make_objective(ctc_scale=0.2)
    both = objective(make_batch("a", "b")).parts
    single = [objective(make_batch(name)).parts for name in "ab"]
    for name, part in both.items():
        assert_close(part, single[0][name] + single[1][name], rtol=1e-4, atol=1e-4)


def test_auxiliary_loss_learns_and_stays_out_of_the_student():
    imitation = Imitation()
    objective = make_objective(auxiliary={"imitation": imitation})
    time_mask = torch.ones(1, 4, dtype=torch.bool)
    objective(make_batch("a"), time_mask=time_mask).total.backward()
    assert imitation.seen == (["a"], time_mask)
    assert all(p.grad is not None for p in objective.parameters())
    assert not any("auxiliary" in name for name in objective.student.state_dict())
    assert "auxiliary.imitation.head.weight" in objective.state_dict()


def test_unknown_tap_is_refused():
    imitation = Imitation()
    imitation.taps = ["layers.9"]
    with pytest.raises(ValueError, match=r"layers\.9"):
        make_objective(auxiliary={"imitation": imitation})(make_batch("a"))


def test_chunk_size_and_left_context_reach_the_encoder():
    objective = make_objective(causal=True, chunk_sizes=[-1, 2, 4], left_context=3)
    assert objective.validation_chunk_size == 2
    batch = make_batch("a", frames=80)
    full, chunked = objective.eval()(batch), objective(batch, chunk_size=2)
    expected, _ = objective.student.encoder(
        batch.features, batch.feature_lens, chunk_size=2, left_context=3
    )
    assert torch.equal(objective.encode(batch.features, batch.feature_lens, 2)[0], expected)
    assert full.total != chunked.total


def test_ctc_head_and_scale_go_together():
    student, loss = make_objective().student, make_objective().transducer_loss
    with pytest.raises(ValueError, match="CTC"):
        Objective(student, loss, ctc_scale=0.0)


def test_encoder_learns_from_ctc_alone_at_first():
    objective = make_objective(ctc_warmup_steps=5)
    encoder = list(objective.student.encoder.parameters())
    batch = make_batch("a", "b")

    def encoder_gradient(loss):
        return torch.autograd.grad(loss, encoder, allow_unused=True)

    losses = objective(batch, step=5)
    head, encoded = objective.student.ctc_head, objective.encode(batch.features, batch.feature_lens)
    ctc = ctc_loss(head(encoded[0]).log_softmax(-1), batch.tokens, encoded[1], batch.token_lens)
    expected = encoder_gradient(0.2 * ctc.sum() / losses.frames)
    for gradient, wanted in zip(encoder_gradient(losses.total), expected, strict=True):
        assert_close(gradient, wanted)
    after = encoder_gradient(objective(batch, step=6).total)
    assert not torch.allclose(after[0], expected[0], rtol=0.01)
    objective(batch, step=5).total.backward()
    assert all(p.grad is not None for p in objective.parameters())  # as DDP demands


def test_overfits_four_utterances(tmp_path):
    objective = make_objective(ctc_scale=0.0)
    batch = make_batch("a", "b", "c", "d", frames=40, tokens=3)
    # No token three times: a stateless predictor cannot tell "5 5" from "5 5 5".
    batch.tokens[:] = torch.tensor([[3, 4, 5], [4, 3, 5], [5, 3, 4], [4, 4, 3]])
    updater = make_updater(objective, tmp_path)
    frames = float(objective(batch).frames)
    for step in range(1, 201):
        updater.update([batch], step=step, frames=frames, learning_rate=0.01)
    pruned = objective.eval()(batch).parts["pruned"] / 4
    assert pruned < 0.1  # nats for a whole transcript; log(4^3) = 4.2 for a guess of its tokens


def test_audio_without_transcripts_goes_no_further_than_the_highest_tap():
    objective = make_objective(auxiliary={"imitation": Imitation()})
    encoder = objective.student.encoder
    called: list[int] = []
    for number, layer in enumerate(encoder.layers, start=1):
        layer.register_forward_hook(lambda *_, number=number: called.append(number))
    gradients = []
    asked = objective.encode
    for encode in (asked, lambda *inputs: asked(*inputs[:4])):
        objective.encode = encode  # the second: all layers, whatever is asked for
        objective.zero_grad()
        torch.manual_seed(0)
        objective(make_batch("a", "b", labelled=False)).total.backward()
        gradients.append([parameter.grad.clone() for parameter in objective.parameters()])
    highest = int(Imitation().taps[0].split(".")[1])
    layers = list(range(1, encoder.num_layers + 1))
    assert highest < len(layers) and called == [*layers[:highest], *layers]
    for short, whole in zip(*gradients, strict=True):
        assert torch.equal(short, whole)
