"""What is minimized."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.testing import assert_close

from mvqkd.data.loading.hypotheses import Hypotheses, ground_truth
from mvqkd.losses import ctc_loss
from mvqkd.models import FULL_CONTEXT, StreamingConfig
from mvqkd.training.objective import Objective
from tests.training.helpers import TapLoss, make_batch, make_objective, make_updater


def test_total_is_the_weighted_sum_per_frame():
    objective = make_objective(distillation={"tap": TapLoss()}, simple_scale=0.3)
    batch = make_batch("a", "b")
    losses = objective(batch, step=2, time_mask=torch.zeros(2, 1))  # of four steps of warm-up
    components = losses.components
    assert list(components) == objective.components
    assert objective.components == ["simple", "pruned", "ctc", "num_ctc_unaligned", "tap"]
    assert losses.frames == objective.model.encoder.output_lens(batch.feature_lens).sum()
    total = 0.65 * components["simple"] + 0.55 * components["pruned"] + 0.2 * components["ctc"]
    assert_close(losses.total() * losses.frames, total + 2 * components["tap"])
    by_frames = losses.distillation / losses.frames
    assert_close(losses.total(labelled_frames=7.0), losses.recognition / 7 + by_frames)
    after = objective(batch)  # weights after the warm-up
    total = 0.3 * components["simple"] + components["pruned"] + 0.2 * components["ctc"]
    assert_close(after.total() * losses.frames, total + 2 * components["tap"])


def test_each_kind_of_loss_has_its_denominator():
    objective = make_objective(distillation={"tap": TapLoss()})
    labelled = objective(make_batch("a", "b"))
    unlabelled = objective(make_batch("c", labelled=False))
    assert labelled.labelled_frames == labelled.frames and unlabelled.labelled_frames == 0
    frames = float(labelled.frames + unlabelled.frames)
    total = sum(x.total(float(labelled.frames), frames) for x in (labelled, unlabelled))
    taps = labelled.components["tap"] + unlabelled.components["tap"]
    assert_close(total, labelled.recognition / labelled.frames + 2 * taps / frames)


def test_a_weight_of_distillation_may_fall():
    tap = TapLoss()
    objective = make_objective(distillation={"tap": tap})
    batch = make_batch("a")
    whole = objective(batch, progress=0.5).distillation
    tap.final_weight_fraction = 0.2
    assert_close(objective(batch, progress=0.5).distillation, 0.6 * whole)
    assert_close(objective(batch, progress=1.0).distillation, 0.2 * whole)
    assert_close(objective(batch).distillation, whole)  # validation losses compare


def test_distillation_alone_trains_the_encoder_at_first():
    objective = make_objective(distillation={"tap": TapLoss()}, distillation_steps=5)
    encoder = list(objective.model.encoder.parameters())
    batch = make_batch("a", "b")

    def gradients(loss):
        found = torch.autograd.grad(loss, encoder, allow_unused=True, retain_graph=True)
        return [x for x in found if x is not None]

    losses = objective(batch, step=5)
    assert losses.recognition.requires_grad  # the heads learn
    for gradient, wanted in zip(
        gradients(losses.total()), gradients(losses.distillation / losses.frames), strict=True
    ):
        assert_close(gradient, wanted)
    assert any(x.any() for x in gradients(objective(batch, step=6).recognition))


def test_a_process_without_a_part_of_the_step_has_gradients_of_zero():
    objective = make_objective(distillation={"tap": TapLoss()})
    losses = objective(None)
    losses.total().backward()
    assert losses.frames == 0 and not losses.components
    assert all(not p.grad.any() for p in objective.parameters())


def test_components_add_up_over_batches():
    objective = make_objective(ctc_scale=0.2)
    both = objective(make_batch("a", "b")).components
    single = [objective(make_batch(name)).components for name in "ab"]
    for name, part in both.items():
        assert_close(part, single[0][name] + single[1][name], rtol=1e-4, atol=1e-4)


def test_a_distillation_loss_learns_and_stays_out_of_the_model():
    tap = TapLoss()
    objective = make_objective(distillation={"tap": tap})
    batch, time_mask = make_batch("a"), torch.ones(1, 4, dtype=torch.bool)
    objective(batch, time_mask=time_mask).total().backward()
    assert all(p.grad is not None for p in objective.parameters())
    assert not any("tap" in name for name in objective.model.state_dict())
    assert "distillation.tap.head.weight" in objective.state_dict()


def test_every_loss_receives_the_context_of_the_step():
    tap = TapLoss()
    objective = make_objective(
        distillation={"tap": tap}, causal=True, chunk_sizes=[2], left_context=3
    )
    batch, time_mask = make_batch("a", "b", frames=60), torch.ones(2, 4, dtype=torch.bool)
    masked = batch.features * 0.5
    objective(batch, features=masked, time_mask=time_mask, step=7, chunk_size=2)
    context = tap.seen
    assert context.batch is batch and context.features is masked
    assert context.clean_features is batch.features
    assert context.time_mask is time_mask and context.step == 7
    assert context.streaming == StreamingConfig(2, 3)
    expected, lens = objective.model.encoder(
        masked, batch.feature_lens, chunk_size=2, left_context=3
    )
    assert torch.equal(context.encoder_out, expected) and torch.equal(context.lens, lens)
    # The band that the transducer's pruned loss kept, for losses that want to score it otherwise.
    band, predictor_out, tokens, joiner = context.transducer
    assert joiner is objective.model.transducer.joiner
    assert len(band.frames) == int(lens.sum())
    assert predictor_out.shape[:2] == (2, batch.hypotheses.tokens.shape[1] + 1)
    assert torch.equal(tokens, batch.hypotheses.tokens.clamp(min=0))


def test_further_passes_of_the_encoder_are_made_once_when_asked_for():
    class FullContext(TapLoss):
        def forward(self, context):
            assert context.full_context() is context.full_context()
            both = context.taps["layers.1"] - context.full_context().taps["layers.1"]
            return both.square().sum((1, 2))

    objective = make_objective(
        distillation={"one": FullContext(), "two": FullContext()},
        causal=True,
        chunk_sizes=[2],
        left_context=3,
    )
    calls = []
    encoder = objective.model.encoder
    encoder.register_forward_hook(
        lambda *call: calls.append(call[2]["chunk_size"]), with_kwargs=True
    )
    batch = make_batch("a", frames=60)
    losses = objective(batch, chunk_size=2)
    assert calls == [2, None]
    assert losses.components["one"] == losses.components["two"] > 0
    objective(batch)
    assert calls[2:] == [None]  # the step's own pass has full context


def test_hypotheses_share_an_encoder_pass_and_have_weights():
    """Several texts of one utterance: each costs what it costs alone, times its weight."""
    objective = make_objective()
    batch = make_batch("a", "b", frames=50)
    truth = batch.hypotheses
    other = torch.tensor([[5, 4, 3, -100], [3, 3, -100, -100], [4, 5, 3, 4]])
    several = Hypotheses(
        tokens=other,
        lens=torch.tensor([3, 2, 4]),
        owners=torch.tensor([0, 1, 1]),
        weights=torch.tensor([1.0, 0.3, 0.7]),
        one_each=False,
    )
    calls = []
    hook = objective.model.encoder.register_forward_hook(lambda *_: calls.append(1))
    found = objective(dataclasses.replace(batch, hypotheses=several))
    assert len(calls) == 1
    hook.remove()
    expected = {name: 0.0 for name in found.components}
    for k in range(3):
        one = int(several.owners[k])
        alone = dataclasses.replace(
            batch,
            ids=batch.ids[one : one + 1],
            features=batch.features[one : one + 1],
            feature_lens=batch.feature_lens[one : one + 1],
            hypotheses=ground_truth([other[k, : several.lens[k]].numpy()]),
        )
        for name, value in objective(alone).components.items():
            expected[name] += float(several.weights[k] * value)
    for name, value in found.components.items():
        assert float(value) == pytest.approx(expected[name], rel=1e-4)
    assert truth.one_each and torch.equal(truth.of_owners(truth.lens), truth.lens)
    assert torch.equal(several.of_owners(batch.feature_lens), batch.feature_lens[several.owners])


def test_unknown_tap_is_refused():
    tap = TapLoss()
    tap.taps = ["layers.9"]
    with pytest.raises(ValueError, match=r"layers\.9"):
        make_objective(distillation={"tap": tap})(make_batch("a"))


def test_chunk_size_and_left_context_reach_the_encoder():
    objective = make_objective(causal=True, chunk_sizes=[-1, 2, 4], left_context=3)
    assert objective.validation_chunk_size == 2
    batch = make_batch("a", frames=80)
    full, chunked = objective.eval()(batch), objective(batch, chunk_size=2)
    expected, _ = objective.model.encoder(
        batch.features, batch.feature_lens, chunk_size=2, left_context=3
    )
    streaming = objective.streaming(2)
    assert streaming == StreamingConfig(2, 3)
    assert objective.streaming(-1) == FULL_CONTEXT
    found, _ = objective.model.encoder(
        batch.features, batch.feature_lens, chunk_size=streaming[0], left_context=streaming[1]
    )
    assert torch.equal(found, expected)
    assert full.total() != chunked.total()


def test_heads_and_their_losses_go_together():
    objective = make_objective()
    losses = {"transducer": objective.head_losses["transducer"]}
    with pytest.raises(ValueError, match=r"heads \['ctc', 'transducer'\], .* \['transducer'\]"):
        Objective(objective.model, losses)


def test_encoder_learns_from_ctc_alone_at_first():
    objective = make_objective(detached_steps=5)
    encoder = list(objective.model.encoder.parameters())
    batch = make_batch("a", "b")

    def encoder_gradient(loss):
        return torch.autograd.grad(loss, encoder, allow_unused=True)

    losses = objective(batch, step=5)
    encoder_out, lens = objective.model.encoder(batch.features, batch.feature_lens)
    text = batch.hypotheses
    ctc = ctc_loss(objective.model.ctc(encoder_out).log_softmax(-1), text.tokens, lens, text.lens)
    expected = encoder_gradient(0.2 * ctc.sum() / losses.frames)
    for gradient, wanted in zip(encoder_gradient(losses.total()), expected, strict=True):
        assert_close(gradient, wanted)
    after = encoder_gradient(objective(batch, step=6).total())
    assert not torch.allclose(after[0], expected[0], rtol=0.01)
    objective(batch, step=5).total().backward()
    assert all(p.grad is not None for p in objective.parameters())  # as DDP demands


def test_the_delay_penalty_acts_after_twice_the_warm_up_and_never_in_validation():
    batch = make_batch("a", "b", tokens=2)  # nothing is pruned

    def gradient(step, **options):
        objective = make_objective(ctc_scale=0.0, **options)  # four steps of warm-up
        losses = objective(batch, step=step)
        weights = list(objective.model.parameters())
        return losses, torch.autograd.grad(losses.total(), weights, allow_unused=True)

    for step, acts in ((1, False), (4, False), (8, False), (9, True), (None, False)):
        plain, expected = gradient(step)
        penalized, found = gradient(step, delay_penalty=0.1)
        same = all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))
        assert same is not acts, step
        assert_close(penalized.total(), plain.total())  # reported without it


def test_overfits_four_utterances(tmp_path):
    objective = make_objective(ctc_scale=0.0)
    batch = make_batch("a", "b", "c", "d", frames=40, tokens=3)
    # No token three times: a stateless predictor cannot tell "5 5" from "5 5 5".
    batch.hypotheses.tokens[:] = torch.tensor([[3, 4, 5], [4, 3, 5], [5, 3, 4], [4, 4, 3]])
    updater = make_updater(objective, tmp_path)
    frames = float(objective(batch).frames)
    amounts = {"frames": frames, "labelled_frames": frames, "learning_rate": 0.01}
    for step in range(1, 201):
        updater.update([batch], step=step, **amounts)
    pruned = objective.eval()(batch).components["pruned"] / 4
    assert pruned < 0.1  # nats for a whole transcript; log(4^3) = 4.2 for a guess of its tokens


def test_audio_without_transcripts_goes_no_further_than_the_highest_tap():
    objective = make_objective(distillation={"tap": TapLoss()})
    encoder = objective.model.encoder
    called: list[int] = []
    for number, layer in enumerate(encoder.layers, start=1):
        layer.register_forward_hook(lambda *_, number=number: called.append(number))
    gradients = []
    for taps in (["layers.1"], ["layers.1", "output"]):  # the second: all layers
        objective.distillation["tap"].taps = taps
        objective.zero_grad()
        torch.manual_seed(0)
        objective(make_batch("a", "b", labelled=False)).total().backward()
        gradients.append([parameter.grad.clone() for parameter in objective.parameters()])
    highest = 1
    layers = list(range(1, encoder.num_layers + 1))
    assert highest < len(layers) and called == [*layers[:highest], *layers]
    for short, whole in zip(*gradients, strict=True):
        assert torch.equal(short, whole)
