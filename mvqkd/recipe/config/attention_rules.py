"""Rules between the fields of heads, of encoders without streaming, and of attention decoders; see
`mvqkd.recipe.config.rules`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from mvqkd.recipe.config.schema import ExperimentConfig

_SCALES = {
    "transducer": "--loss.transducer_scale 1",
    "ctc": "--loss.ctc_scale 0.3",
    "attention": "--loss.attention_scale 1",
}
_METHODS = {
    "transducer": "modified_beam_search",
    "ctc": "ctc_greedy_search",
    "attention": "attention_beam_search",
}


class Problem(NamedTuple):
    """Values that do not go together."""

    names: tuple[str, ...]
    """Of the fields that it is about."""
    text: str
    remedy: str


def attention_rules(experiment: ExperimentConfig) -> Iterator[Problem]:
    """What an experiment with these heads and this encoder cannot be."""
    yield from _of_heads(experiment)
    yield from _of_encoder(experiment)
    if experiment.distillation.tokens.weight:
        yield from _of_tokens(experiment)
    if experiment.loss.attention_scale:
        yield from _of_decoder(experiment)


def _of_heads(experiment: ExperimentConfig) -> Iterator[Problem]:
    loss, decoding = experiment.loss, experiment.decoding
    scales = {
        "transducer": loss.transducer_scale,
        "CTC": loss.ctc_scale,
        "attention": loss.attention_scale,
    }
    if not any(scales.values()):
        names = tuple(f"loss.{head.lower()}_scale" for head in scales)
        yield Problem(names, "no loss trains to recognize: all are 0", "--loss.transducer_scale 1")
    for method in decoding.methods:
        head = next((x for x in ("ctc", "attention") if method.startswith(x)), "transducer")
        name = "CTC" if head == "ctc" else head
        if not scales[name]:
            trained = [x.lower() for x, scale in scales.items() if scale] or ["transducer"]
            yield Problem(
                ("decoding.methods", f"loss.{head}_scale"),
                f"decoding.methods has {method}, but loss.{head}_scale is 0: there is no {name} "
                "head",
                f"{_SCALES[head]}, or --decoding.methods '[{_METHODS[trained[0]]}]'",
            )
    if loss.ctc_warmup_steps and not loss.transducer_scale:
        yield Problem(
            ("loss.ctc_warmup_steps", "loss.transducer_scale"),
            f"loss.ctc_warmup_steps is {loss.ctc_warmup_steps}, but there is no transducer, which "
            "it holds back",
            "--loss.ctc_warmup_steps 0",
        )
    if decoding.ctc_weight and not loss.ctc_scale:
        yield Problem(
            ("decoding.ctc_weight", "loss.ctc_scale"),
            f"decoding.ctc_weight is {decoding.ctc_weight:g}, but loss.ctc_scale is 0: there is no "
            "CTC head",
            "--decoding.ctc_weight 0, or --loss.ctc_scale 0.3",
        )


def _of_encoder(experiment: ExperimentConfig) -> Iterator[Problem]:
    model = experiment.model
    if model.encoder == "gru" and (model.causal or model.chunk_size or model.half_rate):
        yield Problem(
            ("model.encoder", "model.causal", "model.chunk_size", "model.half_rate"),
            "model.encoder is gru, which is bidirectional: it has no chunks, nor layers of half "
            "the rate",
            "--model.causal false --model.chunk_size [] --model.half_rate [], or "
            "--model.encoder conformer",
        )


def _of_decoder(experiment: ExperimentConfig) -> Iterator[Problem]:
    model, loss = experiment.model, experiment.loss
    if model.decoder.kind == "gru" and model.decoder.dim != model.dim:
        yield Problem(
            ("model.decoder.dim", "model.dim"),
            f"model.decoder.dim is {model.decoder.dim}, but a GRU decoder has the width of the "
            f"encoder, {model.dim}",
            f"--model.decoder.dim {model.dim}",
        )
    if model.decoder.kind == "transformer" and loss.teacher_forcing < 1:
        yield Problem(
            ("loss.teacher_forcing", "model.decoder.kind"),
            f"loss.teacher_forcing is {loss.teacher_forcing:g}, but a Transformer decoder receives "
            "all tokens at once",
            "--loss.teacher_forcing 1, or --model.decoder.kind gru",
        )


def _of_tokens(experiment: ExperimentConfig) -> Iterator[Problem]:
    section, prefix = experiment.distillation.tokens, "distillation.tokens"
    if not section.teacher.startswith("mvqkd:"):
        yield Problem(
            (f"{prefix}.weight", f"{prefix}.teacher"),
            f"{prefix} is on, but its teacher is {section.teacher!r}: only experiments of ours "
            "have the student's tokens",
            f"--{prefix}.teacher mvqkd:EXPERIMENT",
        )
    if not experiment.loss.attention_scale:
        yield Problem(
            (f"{prefix}.weight", "loss.attention_scale"),
            f"{prefix} is on, but loss.attention_scale is 0: the student has no attention decoder",
            f"--loss.attention_scale 1, or --{prefix}.weight 0",
        )
