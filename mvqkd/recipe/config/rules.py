"""Values of a configuration that are possible each by itself, but not together: refused before
anything is done with them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from mvqkd.checkpoints.epochs import needed_epochs
from mvqkd.errors import UserError
from mvqkd.recipe.config.attention_rules import Problem, attention_rules
from mvqkd.recipe.config.load import LoadedConfig
from mvqkd.recipe.config.output_rules import output_problems
from mvqkd.recipe.config.schema import (
    CodesConfig,
    EmbeddingsConfig,
    ExperimentConfig,
    LayersConfig,
)


def check_rules(loaded: LoadedConfig) -> None:
    """Refuse values with which a training could not begin, or would end without weights to average.

    Raises:
        UserError: the first of them, with a remedy and the files that the values came from.
    """
    for problem in _problems(loaded.config):
        where = loaded.where(*problem.names)
        raise UserError(f"{problem.text}{where}", remedy=problem.remedy)


def _problems(experiment: ExperimentConfig) -> Iterator[Problem]:
    yield from _of_model_and_loss(experiment)
    yield from _of_decoding(experiment)
    yield from _of_data(experiment)
    for name, section in experiment.distillation.frame_losses.items():
        yield from _of_distillation(name, section, experiment.model.num_layers)
    if experiment.distillation.hypotheses.weight:
        yield from _of_hypotheses(experiment)
    if experiment.distillation.layers.weight:
        yield from _of_layers(experiment.distillation.layers, experiment.model.num_layers)
    yield from itertools.starmap(Problem, output_problems(experiment))
    yield from _of_averages(experiment)


def _of_model_and_loss(experiment: ExperimentConfig) -> Iterator[Problem]:
    model, loss = experiment.model, experiment.loss
    if model.chunk_size and not model.causal:
        yield Problem(
            ("model.chunk_size", "model.causal"),
            f"model.chunk_size is {model.chunk_size}, but model.causal is not set",
            "--model.causal true for a streaming student, else --model.chunk_size []",
        )
    yield from _of_half_rate(experiment)
    if loss.lm_scale + loss.am_scale > 1:
        yield Problem(
            ("loss.lm_scale", "loss.am_scale"),
            f"loss.lm_scale {loss.lm_scale:g} and loss.am_scale {loss.am_scale:g} are shares of "
            "one whole, and more together",
            f"--loss.lm_scale {1 - loss.am_scale:g} or less",
        )
    if loss.ctc_warmup_steps and not loss.ctc_scale:
        yield Problem(
            ("loss.ctc_warmup_steps", "loss.ctc_scale"),
            f"loss.ctc_warmup_steps is {loss.ctc_warmup_steps}, but loss.ctc_scale is 0: there is "
            "no CTC head to train with",
            "--loss.ctc_scale 0.3, or --loss.ctc_warmup_steps 0",
        )

    if loss.distillation_steps and not experiment.distillation.losses:
        yield Problem(
            ("loss.distillation_steps",),
            f"loss.distillation_steps is {loss.distillation_steps}, but there is no distillation",
            "--loss.distillation_steps 0, or a weight of a section of distillation",
        )
    if loss.consistency_scale and not (loss.ctc_scale and experiment.data.spec_augment):
        yield Problem(
            ("loss.consistency_scale", "loss.ctc_scale", "data.spec_augment"),
            f"loss.consistency_scale is {loss.consistency_scale:g}, but there is no CTC head, or "
            "no SpecAugment to make two views of an utterance differ",
            "--loss.ctc_scale 0.3 --data.spec_augment true, or --loss.consistency_scale 0",
        )


def _of_half_rate(experiment: ExperimentConfig) -> Iterator[Problem]:
    model, decoding = experiment.model, experiment.decoding
    if not (layers := model.half_rate):
        return
    if not (len(layers) == 2 and 1 <= layers[0] <= layers[1] <= model.num_layers):
        yield Problem(
            ("model.half_rate", "model.num_layers"),
            f"model.half_rate is {layers}: not the first and the last of some of "
            f"{model.num_layers} layers",
            f"--model.half_rate '[2, {max(2, model.num_layers - 1)}]', or '[]' for none",
        )
    counts = {
        "model.chunk_size": [size for size in model.chunk_size if size > 0],
        "model.left_context": [max(0, model.left_context)],
        "decoding.chunk_size": decoding.chunk_size,
        "decoding.left_context": [max(0, decoding.left_context)],
    }
    for name, values in counts.items():
        for odd in (value for value in values if value % 2):
            yield Problem(
                (name, "model.half_rate"),
                f"{name} has {odd}, but layers of half the rate (model.half_rate {layers}) need "
                "even numbers of frames",
                f"{odd + 1} in place of {odd}",
            )


def _of_decoding(experiment: ExperimentConfig) -> Iterator[Problem]:
    decoding = experiment.decoding
    yield from attention_rules(experiment)
    has_beam = any(method.endswith("beam_search") for method in decoding.methods)
    if has_beam and decoding.nbest > decoding.beam_size:
        yield Problem(
            ("decoding.nbest", "decoding.beam_size"),
            f"decoding.nbest is {decoding.nbest}, but a beam of {decoding.beam_size} has no more "
            f"than {decoding.beam_size} hypotheses",
            f"--decoding.beam_size {decoding.nbest}, or --decoding.nbest {decoding.beam_size}",
        )


def _of_data(experiment: ExperimentConfig) -> Iterator[Problem]:
    data = experiment.data
    if data.musan_snr[0] > data.musan_snr[1]:
        yield Problem(
            ("data.musan_snr",),
            f"data.musan_snr is {data.musan_snr}: the lower end of a range comes first",
            f"--data.musan_snr '{data.musan_snr[::-1]}'",
        )
    if data.unlabelled_ratio and not set(experiment.distillation.sections) - {"outputs", "tokens"}:
        yield Problem(
            ("data.unlabelled_ratio",),
            f"data.unlabelled_ratio is {data.unlabelled_ratio:g}, but only distillation of layers, "
            "codes, embeddings and hypotheses is trained without transcripts",
            "--data.unlabelled_ratio 0, or a weight of a section of distillation",
        )
    stored = [*experiment.distillation.frame_losses]
    stored += ["hypotheses"] if experiment.distillation.hypotheses.weight else []
    layers = experiment.distillation.layers
    if layers.weight and layers.source == "teacher" and not layers.teacher.startswith("mvqkd:"):
        stored.append("layers")
    for name in ("data.replay", "data.extra_dev"):
        if stored and getattr(data, name.removeprefix("data.")):
            yield Problem(
                (name, *(f"distillation.{section}.weight" for section in stored)),
                f"{name} is given, but of other data there are no targets of distillation."
                f"{', '.join(stored)}",
                f"--{name} '[]', or distillation of outputs, tokens or layers of a teacher of ours",
            )


def _of_distillation(
    name: str, section: CodesConfig | EmbeddingsConfig, num_layers: int
) -> Iterator[Problem]:
    prefix = f"distillation.{name}"
    if not section.teacher or section.teacher_layer < 1:
        yield Problem(
            (f"{prefix}.weight", f"{prefix}.teacher", f"{prefix}.teacher_layer"),
            f"{prefix} is on, but its teacher is {section.teacher!r} and its teacher_layer "
            f"{section.teacher_layer}",
            "name a teacher and one of its layers, counted from 1",
        )
    wanted = section.layer
    if not wanted or min(wanted) < 1 or max(wanted) > num_layers or len(set(wanted)) < len(wanted):
        named = wanted[0] if len(wanted) == 1 else wanted
        yield Problem(
            (f"{prefix}.layer", "model.num_layers"),
            f"{prefix}.layer is {named}, the student has {num_layers} layers",
            f"--{prefix}.layer 1 to {num_layers}, or several of them, such as '[1, {num_layers}]'",
        )
    if isinstance(section, EmbeddingsConfig) and section.source != "codes":
        weight = section.quantizer.rate_distortion_weight
        if weight:
            yield Problem(
                (f"{prefix}.quantizer.rate_distortion_weight", f"{prefix}.source"),
                f"{prefix}.quantizer.rate_distortion_weight is {weight:g}, but the source "
                f"{section.source} has no codes to choose",
                f"--{prefix}.quantizer.rate_distortion_weight 0, or --{prefix}.source codes",
            )
        if section.targets and section.source == "online":
            yield Problem(
                (f"{prefix}.targets", f"{prefix}.source"),
                f"{prefix}.targets is {section.targets}, but with the source online none are read",
                f"--{prefix}.targets '', or --{prefix}.source codes or embeddings",
            )


def _of_hypotheses(experiment: ExperimentConfig) -> Iterator[Problem]:
    section, prefix = experiment.distillation.hypotheses, "distillation.hypotheses"
    if not section.teacher and not section.targets:
        yield Problem(
            (f"{prefix}.weight", f"{prefix}.teacher"),
            f"{prefix} is on, but it has no teacher",
            f"--{prefix}.teacher hf:openai/whisper-tiny.en, or another that writes text",
        )
    if section.num_hypotheses > section.beam_size and not section.targets:
        yield Problem(
            (f"{prefix}.num_hypotheses", f"{prefix}.beam_size"),
            f"{prefix}.num_hypotheses is {section.num_hypotheses}, but a beam of "
            f"{section.beam_size} has no more than {section.beam_size}",
            f"--{prefix}.beam_size {section.num_hypotheses}, or --{prefix}.num_hypotheses "
            f"{section.beam_size}",
        )
    if section.truth_share == 1 and not experiment.data.unlabelled_ratio:
        yield Problem(
            (f"{prefix}.truth_share", "data.unlabelled_ratio"),
            f"{prefix}.truth_share is 1 and data.unlabelled_ratio 0: the hypotheses are not used",
            f"--data.unlabelled_ratio 1, or --{prefix}.truth_share 0.5",
        )


def _of_layers(section: LayersConfig, num_layers: int) -> Iterator[Problem]:
    prefix = "distillation.layers"
    stored = section.source != "teacher"
    if not section.teacher:
        yield Problem(
            (f"{prefix}.weight", f"{prefix}.teacher"),
            f"{prefix} is on, but has no teacher",
            f"--{prefix}.teacher mvqkd:EXPERIMENT",
        )
    if not stored and len(section.layer) != len(section.teacher_layer):
        yield Problem(
            (f"{prefix}.layer", f"{prefix}.teacher_layer"),
            f"{prefix}.layer is {section.layer}, {prefix}.teacher_layer {section.teacher_layer}: "
            "these are no pairs",
            "as many of one as of the other, or none of both",
        )
    if stored and len(section.teacher_layer) != 1:
        yield Problem(
            (f"{prefix}.source", f"{prefix}.teacher_layer"),
            f"{prefix}.source is {section.source}, {prefix}.teacher_layer {section.teacher_layer}: "
            "one layer is stored",
            f"--{prefix}.teacher_layer with one layer",
        )
    if stored and section.relation_weight:
        yield Problem(
            (f"{prefix}.source", f"{prefix}.relation_weight"),
            f"{prefix}.source is {section.source}, which has no relations of attention",
            f"--{prefix}.relation_weight 0",
        )
    wanted = section.layer
    if wanted and (max(wanted) > num_layers or len(set(wanted)) < len(wanted)):
        yield Problem(
            (f"{prefix}.layer", "model.num_layers"),
            f"{prefix}.layer is {wanted}, the student has {num_layers} layers",
            f"different ones of 1 to {num_layers}",
        )
    weights = ("feature_weight", "relation_weight", "future_weight")
    on = [name for name in weights if getattr(section, name)]
    if not on:
        yield Problem(
            tuple(f"{prefix}.{name}" for name in weights),
            f"{prefix} is on, but the weights of all its losses are 0",
            f"--{prefix}.feature_weight 0.01, or --{prefix}.weight 0",
        )
    if section.branch == "projection" and (others := [x for x in on if x != "feature_weight"]):
        yield Problem(
            (f"{prefix}.branch", *(f"{prefix}.{name}" for name in others)),
            f"{prefix}.branch is projection, which has neither attention nor a prediction of the "
            "future",
            " ".join(f"--{prefix}.{name} 0" for name in others) + f", or --{prefix}.branch "
            "transformer",
        )


def _of_averages(experiment: ExperimentConfig) -> Iterator[Problem]:
    """Averages of epochs that are not trained, or not kept to the end."""
    decoding, training = experiment.decoding, experiment.training
    epoch = training.num_epochs if decoding.epoch == -1 else decoding.epoch
    names = ("decoding.epoch", "decoding.avg", "training.num_epochs", "training.keep_epochs")
    if epoch > training.num_epochs:
        yield Problem(
            names,
            f"decoding.epoch is {epoch}, training.num_epochs {training.num_epochs}",
            f"--decoding.epoch {training.num_epochs} or less, or -1 for the last",
        )
    if decoding.avg > epoch:
        yield Problem(
            names,
            f"decoding.avg is {decoding.avg}: there are not as many epochs to average up to epoch "
            f"{epoch}",
            f"--decoding.avg {epoch} or less",
        )
        return
    first = needed_epochs(epoch, decoding.avg, use_averaged_model=decoding.use_averaged_model)[0]
    kept = training.num_epochs - first + 1
    if 0 <= training.keep_epochs < kept:
        yield Problem(
            names,
            f"training.keep_epochs is {training.keep_epochs}, but the average over decoding.avg "
            f"{decoding.avg} up to epoch {epoch} of {training.num_epochs} needs epoch-{first}.pt",
            f"--training.keep_epochs {kept} or more, or -1 for all",
        )
