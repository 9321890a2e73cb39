"""The pruned transducer loss as a whole."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mvqkd.losses import PrunedTransducerLoss, TransducerLosses
from mvqkd.models.joiner import Joiner
from tests.losses.lattices import TOPOLOGIES, enumerate_paths

DIM, PREDICTOR_DIM, VOCAB = 8, 6, 13


def make(
    dtype: torch.dtype = torch.float64, **options: object
) -> tuple[PrunedTransducerLoss, Joiner]:
    torch.manual_seed(0)
    loss = PrunedTransducerLoss(
        encoder_dim=DIM,
        predictor_dim=PREDICTOR_DIM,
        vocab_size=VOCAB,
        **options,  # type: ignore[arg-type]
    )
    joiner = Joiner(encoder_dim=DIM, predictor_dim=PREDICTOR_DIM, joiner_dim=10, vocab_size=VOCAB)
    return loss.to(dtype), joiner.to(dtype)


def random_inputs(
    frames: int = 12, tokens: int = 7, dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "encoder_out": torch.randn(4, frames, DIM, generator=generator, dtype=dtype),
        "predictor_out": torch.randn(
            4, tokens + 1, PREDICTOR_DIM, generator=generator, dtype=dtype
        ),
        "tokens": torch.randint(1, VOCAB, (4, tokens), generator=generator),
        "lens": torch.tensor([frames, frames - 3, frames - 1, tokens]),
        "token_lens": torch.tensor([tokens, tokens - 2, 1, tokens - 1]),
    }


def gradients(
    losses: TransducerLosses, inputs: dict[str, Tensor], joiner: Joiner
) -> tuple[Tensor, ...]:
    sources = [inputs["encoder_out"], inputs["predictor_out"], *joiner.parameters()]
    return torch.autograd.grad(losses.pruned.sum(), sources)


def test_unpruned_equals_torchaudio_with_gradients() -> None:
    """torchaudio computes in float32 only."""
    torchaudio = pytest.importorskip("torchaudio")
    loss, joiner = make(torch.float32, prune_range=99)
    inputs = random_inputs(dtype=torch.float32)
    for name in ("encoder_out", "predictor_out"):
        inputs[name].requires_grad_()
    losses = loss(joiner=joiner, **inputs)
    logits = joiner(
        joiner.project_encoder(inputs["encoder_out"])[:, :, None],
        joiner.project_predictor(inputs["predictor_out"])[:, None],
    )
    expected = torchaudio.functional.rnnt_loss(
        logits,
        inputs["tokens"].int(),
        inputs["lens"].int(),
        inputs["token_lens"].int(),
        blank=0,
        reduction="none",
    )
    torch.testing.assert_close(losses.pruned, expected, rtol=1e-5, atol=1e-5)
    found = gradients(losses, inputs, joiner)
    wanted = gradients(TransducerLosses(expected, expected), inputs, joiner)
    for values, reference in zip(found, wanted, strict=True):
        torch.testing.assert_close(values, reference, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("delay_penalty", [0.0, 0.3])
def test_unpruned_equals_enumeration_of_paths(topology: str, delay_penalty: float) -> None:
    """A delay penalty changes the gradient, and not the likelihood."""
    loss, joiner = make(prune_range=99, topology=topology)
    inputs = random_inputs(frames=5, tokens=3)
    for name in ("encoder_out", "predictor_out"):
        inputs[name].requires_grad_()
    losses = loss(joiner=joiner, delay_penalty=delay_penalty, **inputs)
    log_probs = joiner(
        joiner.project_encoder(inputs["encoder_out"])[:, :, None],
        joiner.project_predictor(inputs["predictor_out"])[:, None],
    ).log_softmax(3)
    penalized = []
    for n in range(4):
        t, u = int(inputs["lens"][n]), int(inputs["token_lens"][n])
        index = inputs["tokens"][n, :u].expand(t, u)[:, :, None]
        arcs = {
            "symbol": log_probs[n, :t, :u].gather(2, index).squeeze(2),
            "blank": log_probs[n, :t, : u + 1, 0],
        }
        paths = enumerate_paths(arcs["symbol"], arcs["blank"], topology)
        total = math.log(sum(math.exp(score) for score, _ in paths))
        assert losses.pruned[n].item() == pytest.approx(-total, abs=1e-10)
        # A token in the middle frame costs nothing, one a frame earlier gains 0.3.
        arcs["symbol"] = arcs["symbol"] + delay_penalty * ((t - 1) / 2 - torch.arange(t))[:, None]
        scores = [torch.stack([arcs[kind][t, s] for kind, t, s in path]).sum() for _, path in paths]
        penalized.append(-torch.stack(scores).logsumexp(0))
    wanted = torch.stack(penalized)
    for found, expected in zip(
        gradients(losses, inputs, joiner),
        gradients(TransducerLosses(wanted, wanted), inputs, joiner),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_the_delay_penalty_leaves_what_has_no_path_alone() -> None:
    loss, joiner = make(topology="modified")
    inputs = random_inputs()
    inputs["lens"][0] = 3  # of 7 tokens
    inputs["encoder_out"].requires_grad_()
    losses = loss(joiner=joiner, delay_penalty=0.3, **inputs)
    for values in losses:
        assert values[0].isposinf() and values[1:].isfinite().all()
        (gradient,) = torch.autograd.grad(values.sum(), inputs["encoder_out"], retain_graph=True)
        assert not gradient[0].any() and gradient[1:].isfinite().all() and gradient[1].any()


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_gradients_are_the_derivatives(topology: str) -> None:
    """Of both losses by everything, with pruning and smoothing on."""
    loss, joiner = make(prune_range=3, topology=topology, lm_scale=0.25, am_scale=0.1)
    inputs = random_inputs(frames=7, tokens=5)
    encoder_out, predictor_out = inputs.pop("encoder_out"), inputs.pop("predictor_out")
    torch.autograd.gradcheck(
        lambda e, p, *_: tuple(loss(encoder_out=e, predictor_out=p, joiner=joiner, **inputs)),
        (
            encoder_out.requires_grad_(),
            predictor_out.requires_grad_(),
            joiner.output.weight,
            joiner.project_encoder.bias,
            loss.project_encoder.weight,
            loss.project_predictor.bias,
        ),
        fast_mode=True,
    )


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("delay_penalty", [0.0, 0.05])
def test_equals_fast_rnnt_with_gradients(topology: str, delay_penalty: float) -> None:
    fast_rnnt = pytest.importorskip("fast_rnnt")
    scales = {"lm_scale": 0.25, "am_scale": 0.1}
    loss, joiner = make(prune_range=4, topology=topology, **scales)
    inputs = random_inputs(frames=25, tokens=12)
    # fast_rnnt averages over padding too, so that its am_only_scale needs equal lengths.
    inputs["lens"], inputs["token_lens"] = torch.full((4,), 25), torch.full((4,), 12)
    for name in ("encoder_out", "predictor_out"):
        inputs[name].requires_grad_()
    losses = loss(joiner=joiner, delay_penalty=delay_penalty, **inputs)

    boundary = torch.tensor([[0, 0, 12, 25]]).expand(4, 4).contiguous()
    common = {
        "boundary": boundary,
        "rnnt_type": topology,
        "delay_penalty": delay_penalty,
        "reduction": "none",
    }
    simple, (px_grad, py_grad) = fast_rnnt.rnnt_loss_smoothed(
        lm=loss.project_predictor(inputs["predictor_out"]),
        am=loss.project_encoder(inputs["encoder_out"]),
        symbols=inputs["tokens"],
        termination_symbol=0,
        lm_only_scale=scales["lm_scale"],
        am_only_scale=scales["am_scale"],
        return_grad=True,
        **common,
    )
    if topology == "regular":
        ranges = fast_rnnt.get_rnnt_prune_ranges(px_grad, py_grad, boundary, 4)
    else:  # of ours, which are others: see test_pruning.py
        texts = [inputs[name] for name in ("tokens", "lens", "token_lens")]
        _, band = loss.choose_band(
            inputs["encoder_out"], inputs["predictor_out"], *texts, delay_penalty=delay_penalty
        )
        ranges = band.positions.view(4, 25, 4)
    am, lm = fast_rnnt.do_rnnt_pruning(
        am=joiner.project_encoder(inputs["encoder_out"]),
        lm=joiner.project_predictor(inputs["predictor_out"]),
        ranges=ranges,
    )
    pruned = fast_rnnt.rnnt_loss_pruned(
        logits=joiner(am, lm),
        symbols=inputs["tokens"],
        ranges=ranges,
        termination_symbol=0,
        **common,
    )
    if not delay_penalty:  # theirs has the penalty in its value, too
        torch.testing.assert_close(losses.simple, simple, rtol=0, atol=1e-10)
        torch.testing.assert_close(losses.pruned, pruned, rtol=0, atol=1e-10)
    found = gradients(losses, inputs, joiner)
    expected = gradients(TransducerLosses(simple, pruned), inputs, joiner)
    for values, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(values, wanted, rtol=0, atol=1e-10)
    weights = list(loss.parameters())
    for values, wanted in zip(
        torch.autograd.grad(losses.simple.sum(), weights),
        torch.autograd.grad(simple.sum(), weights),
        strict=True,
    ):
        torch.testing.assert_close(values, wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_padding_changes_neither_losses_nor_gradients(topology: str) -> None:
    loss, joiner = make(prune_range=3, topology=topology)
    inputs = random_inputs()
    together = loss(joiner=joiner, **inputs)
    for n in range(4):
        t, u = int(inputs["lens"][n]), int(inputs["token_lens"][n])
        alone = loss(
            inputs["encoder_out"][n : n + 1, :t],
            inputs["predictor_out"][n : n + 1, : u + 1],
            joiner,
            inputs["tokens"][n : n + 1, :u],
            inputs["lens"][n : n + 1],
            inputs["token_lens"][n : n + 1],
        )
        torch.testing.assert_close(alone.simple[0], together.simple[n], rtol=0, atol=1e-10)
        torch.testing.assert_close(alone.pruned[0], together.pruned[n], rtol=0, atol=1e-10)
    inputs["encoder_out"].requires_grad_()
    inputs["tokens"][1, inputs["token_lens"][1] :] = -100
    again = loss(joiner=joiner, **inputs)
    assert torch.equal(again.pruned, together.pruned)
    (again.simple.sum() + again.pruned.sum()).backward()
    assert inputs["encoder_out"].grad is not None
    for n in range(4):
        assert not inputs["encoder_out"].grad[n, inputs["lens"][n] :].any()


def test_any_callable_joiner_gives_the_same() -> None:
    loss, joiner = make(prune_range=3)
    inputs = random_inputs()

    def function(encoder_out: Tensor, predictor_out: Tensor) -> Tensor:
        assert encoder_out.shape == (int(inputs["lens"].sum()), 3, DIM)
        return joiner(joiner.project_encoder(encoder_out), joiner.project_predictor(predictor_out))

    fused, generic = loss(joiner=joiner, **inputs), loss(joiner=function, **inputs)
    torch.testing.assert_close(fused.pruned, generic.pruned, rtol=0, atol=1e-10)


def test_pruned_loss_is_above_and_approaches_the_full_one() -> None:
    inputs = random_inputs(frames=30, tokens=12)
    losses = []
    for prune_range in (2, 4, 8, 13):
        loss, joiner = make(prune_range=prune_range)
        losses.append(loss(joiner=joiner, **inputs).pruned)
    stacked = torch.stack(losses)
    assert (stacked.diff(dim=0) <= 1e-12).all()
    assert (stacked[0] > stacked[-1]).any()


def test_impossible_utterances_are_infinite_without_harm_to_others() -> None:
    loss, joiner = make(torch.float32, topology="modified")
    inputs = random_inputs(dtype=torch.float32)
    inputs["lens"][1] = 2  # five tokens
    losses = loss(joiner=joiner, **inputs)
    for values in losses:
        assert values.isposinf().tolist() == [False, True, False, False]
    inputs["encoder_out"].requires_grad_()
    losses = loss(joiner=joiner, **inputs)
    (losses.simple.sum() + losses.pruned.sum()).backward()
    grad = inputs["encoder_out"].grad
    assert grad is not None and grad.isfinite().all()
    assert not grad[1].any() and all(grad[n].any() for n in (0, 2, 3))


def test_many_tokens_in_few_frames_widen_the_windows() -> None:
    loss, joiner = make(prune_range=2)
    inputs = random_inputs(frames=12, tokens=7)
    inputs["lens"][0] = 2
    assert loss(joiner=joiner, **inputs).pruned.isfinite().all()


def test_transcripts_without_tokens() -> None:
    loss, joiner = make()
    inputs = random_inputs(tokens=7)
    inputs["token_lens"][:] = 0
    empty = inputs | {
        "tokens": inputs["tokens"][:, :0],
        "predictor_out": inputs["predictor_out"][:, :1],
    }
    for variant in (inputs, empty):
        log_probs = joiner(
            joiner.project_encoder(inputs["encoder_out"]),
            joiner.project_predictor(inputs["predictor_out"][:, :1]),
        ).log_softmax(2)
        expected = [-log_probs[n, : inputs["lens"][n], 0].sum() for n in range(4)]
        found = loss(joiner=joiner, **variant).pruned
        torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-10)


def test_low_precision_inputs_give_float32_losses() -> None:
    loss, joiner = make(torch.float32)
    inputs = random_inputs(dtype=torch.float32)
    exact = loss(joiner=joiner, **inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = loss(joiner=joiner, **inputs)
    for a, b in zip(exact, rounded, strict=True):
        assert b.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0.02, atol=0.02)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="prune_range"):
        make(prune_range=1)
    with pytest.raises(ValueError, match="lm_scale"):
        make(lm_scale=0.7, am_scale=0.4)
    loss, joiner = make()
    inputs = random_inputs()
    with pytest.raises(ValueError, match="predictor_out"):
        loss(joiner=joiner, **(inputs | {"tokens": inputs["tokens"][:, :-1]}))
    with pytest.raises(ValueError, match="lens must be between 0 and 12"):
        loss(joiner=joiner, **(inputs | {"lens": torch.tensor([13, 1, 1, 1])}))
    for token in (0, VOCAB, -1):
        with pytest.raises(ValueError, match=f"between 1 and 12, .* not {token}"):
            loss(joiner=joiner, **(inputs | {"tokens": torch.full((4, 7), token)}))
    _, band = loss.choose_band(**inputs)
    with pytest.raises(ValueError, match="tokens"):
        loss.score(band, joiner=joiner, **(inputs | {"tokens": inputs["tokens"][:1]}))
    with pytest.raises(ValueError, match="topology"):
        make(topology="constrained")[0](joiner=joiner, **inputs)


class ReluJoiner(Joiner):
    def forward(self, encoder_proj: Tensor, predictor_proj: Tensor) -> Tensor:
        return self.output((encoder_proj + predictor_proj).relu())


def test_any_joiner_is_scored_by_what_it_computes() -> None:
    """One that declares tanh and a linear layer, a subclass that computes something else, and a
    plain function, which projects by itself."""
    loss, joiner = make()
    relu = ReluJoiner(encoder_dim=DIM, predictor_dim=PREDICTOR_DIM, joiner_dim=10, vocab_size=VOCAB)
    relu.to(torch.float64).load_state_dict(joiner.state_dict())
    assert joiner.tanh_output is joiner.output and relu.tanh_output is None

    def plain(module: Joiner) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda e, p: module(module.project_encoder(e), module.project_predictor(p))

    inputs = random_inputs()
    for module in (joiner, relu):
        expected = loss(joiner=plain(module), **inputs).pruned
        torch.testing.assert_close(loss(joiner=module, **inputs).pruned, expected)
    assert (loss(joiner=joiner, **inputs).pruned != loss(joiner=relu, **inputs).pruned).all()


def test_a_band_is_chosen_once_and_scored_by_any_joiner() -> None:
    loss, joiner = make(prune_range=3)
    inputs = random_inputs()
    both = loss(joiner=joiner, **inputs)
    simple, band = loss.choose_band(**inputs)
    assert band.positions.shape == (int(inputs["lens"].sum()), 3)
    assert torch.equal(simple, both.simple)
    assert torch.equal(loss.score(band, joiner=joiner, **inputs), both.pruned)
