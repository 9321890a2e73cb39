"""Values of a configuration that cannot be meant, told before anything is done with them.

Only the standard library is imported: `run.sh` asks before anything is installed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from mvqkd.checkpoints.epochs import needed_epochs
from mvqkd.errors import UserError
from mvqkd.experiment.allowed import Allowed
from mvqkd.experiment.config import ExperimentConfig

_TRUTHS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def check_values(experiment: ExperimentConfig) -> None:
    """Refuse values outside the ranges that stand at their fields.

    Raises:
        UserError: names each field, its value and what it may be.
    """
    problems = [
        _problem(name, value, allowed)
        for name, value in _values(experiment)
        if (allowed := _field_types()[name][1]) is not None and value not in allowed
    ]
    if problems:
        raise UserError(
            "\n    ".join(problems), remedy="./run.sh --help-config tells what each value means"
        )


def check_option(name: str, text: str) -> str | None:
    """What is wrong with the option `--<name> <text>`, in one line; None if nothing is.

    Args:
        name: `section.field`, or a name that is not of the configuration, which is wrong too.
        text: the value as it stands on the command line.
    """
    if name not in _field_types():
        return f"there is no configuration value {name}"
    kind, allowed = _field_types()[name]
    try:
        value = _parse(text, kind)
    except ValueError as error:
        return f"{name} is {text!r}; allowed: {error}"
    return None if allowed is None or value in allowed else _problem(name, value, allowed)


def check_training(experiment: ExperimentConfig) -> None:
    """Refuse values that each are possible, but with which a training could not begin, or would end
    without weights to average.

    Raises:
        UserError: the first of them, with a remedy.
    """
    data, model, loss = experiment.data, experiment.model, experiment.loss
    if model.chunk_size and not model.causal:
        raise UserError(
            f"model.chunk_size is {model.chunk_size}, but model.causal is not set",
            remedy="--model.causal true for a streaming student, else --model.chunk_size []",
        )
    if loss.lm_scale + loss.am_scale > 1:
        raise UserError(
            f"loss.lm_scale {loss.lm_scale:g} and loss.am_scale {loss.am_scale:g} are shares of "
            "one whole, and more together",
            remedy=f"--loss.lm_scale {1 - loss.am_scale:g} or less",
        )
    if loss.ctc_warmup_steps and not loss.ctc_scale:
        raise UserError(
            f"loss.ctc_warmup_steps is {loss.ctc_warmup_steps}, but loss.ctc_scale is 0: there is "
            "no CTC head to learn from",
            remedy="--loss.ctc_scale 0.3, or --loss.ctc_warmup_steps 0",
        )
    if "ctc_greedy_search" in experiment.decoding.methods and not loss.ctc_scale:
        raise UserError(
            "decoding.methods has ctc_greedy_search, but loss.ctc_scale is 0: there is no CTC head",
            remedy="--loss.ctc_scale 0.3, or another method",
        )
    decoding = experiment.decoding
    if "modified_beam_search" in decoding.methods and decoding.nbest > decoding.beam_size:
        raise UserError(
            f"decoding.nbest is {decoding.nbest}, but a beam of {decoding.beam_size} has no more "
            f"than {decoding.beam_size} hypotheses",
            remedy=f"--decoding.beam_size {decoding.nbest}, or --decoding.nbest "
            f"{decoding.beam_size}",
        )
    if data.musan_snr[0] > data.musan_snr[1]:
        raise UserError(
            f"data.musan_snr is {data.musan_snr}: the lower end of a range comes first",
            remedy=f"--data.musan_snr '{data.musan_snr[::-1]}'",
        )
    if data.unlabelled_ratio and experiment.distillation.method == "none":
        raise UserError(
            f"data.unlabelled_ratio is {data.unlabelled_ratio:g}, but without transcripts only "
            "distillation learns",
            remedy="--data.unlabelled_ratio 0, or a distillation.method",
        )
    _check_distillation(experiment)
    _check_average(experiment)


def _check_distillation(experiment: ExperimentConfig) -> None:
    config, num_layers = experiment.distillation, experiment.model.num_layers
    if config.method == "none":
        return
    if not 1 <= config.layer <= num_layers:  # 0 stands there when it was forgotten
        raise UserError(
            f"distillation.layer is {config.layer}, the student has {num_layers} layers",
            remedy=f"--distillation.layer 1 to {num_layers}",
        )
    if config.method == "mvq" and config.learns_from != "codes":
        raise UserError(
            f"distillation.source is {config.source}, but mvq predicts stored codebook indexes",
            remedy="--distillation.source codes, or another --distillation.method",
        )
    if config.prediction != "independent" and config.method != "mvq":
        raise UserError(
            f"distillation.prediction is {config.prediction}, but {config.method} predicts no "
            "codebook indexes",
            remedy="--distillation.prediction independent, or --distillation.method mvq",
        )
    if config.rate_weight and config.learns_from != "codes":
        raise UserError(
            f"distillation.rate_weight is {config.rate_weight:g}, but the source "
            f"{config.learns_from} has no codes to choose",
            remedy="--distillation.rate_weight 0, or --distillation.source codes",
        )
    if config.targets and config.learns_from == "teacher":
        raise UserError(
            f"distillation.targets is {config.targets}, but with the source teacher none are read",
            remedy="--distillation.targets '', or --distillation.source codes or embeddings",
        )


def _check_average(experiment: ExperimentConfig) -> None:
    """Refuse an average of epochs that are not trained, or not kept to the end."""
    decoding, training = experiment.decoding, experiment.training
    epoch = training.num_epochs if decoding.epoch == -1 else decoding.epoch
    if epoch > training.num_epochs:
        raise UserError(
            f"decoding.epoch is {epoch}, training.num_epochs {training.num_epochs}",
            remedy=f"--decoding.epoch {training.num_epochs} or less, or -1 for the last",
        )
    if decoding.avg > epoch:
        raise UserError(
            f"decoding.avg is {decoding.avg}: there are not as many epochs to average up to epoch "
            f"{epoch}",
            remedy=f"--decoding.avg {epoch} or less",
        )
    first = needed_epochs(epoch, decoding.avg, use_averaged_model=decoding.use_averaged_model)[0]
    kept = training.num_epochs - first + 1
    if 0 <= training.keep_epochs < kept:
        raise UserError(
            f"training.keep_epochs is {training.keep_epochs}, but the average over decoding.avg "
            f"{decoding.avg} up to epoch {epoch} of {training.num_epochs} needs epoch-{first}.pt",
            remedy=f"--training.keep_epochs {kept} or more, or -1 for all",
        )


def _problem(name: str, value: Any, allowed: Allowed) -> str:
    return f"{name} is {value}; allowed: {allowed}"


def _values(experiment: ExperimentConfig) -> Iterator[tuple[str, Any]]:
    """`section.field` and value."""
    for section in fields(experiment):
        part = getattr(experiment, section.name)
        if is_dataclass(part):
            yield from ((f"{section.name}.{f.name}", getattr(part, f.name)) for f in fields(part))


@cache
def _field_types() -> dict[str, tuple[Any, Allowed | None]]:
    """`section.field` -> type and range."""
    found = {}
    for section, kind in get_type_hints(ExperimentConfig).items():
        if not is_dataclass(kind):
            continue
        for name, hint in get_type_hints(kind, include_extras=True).items():
            allowed = None
            if get_origin(hint) is Annotated:
                hint, allowed = get_args(hint)
            found[f"{section}.{name}"] = (hint, allowed)
    return found


def _parse(text: str, kind: Any) -> Any:
    """A value from the command line.

    Raises:
        ValueError: says what it should be.
    """
    if get_origin(kind) is list:
        if not (text.strip().startswith("[") and text.strip().endswith("]")):
            raise ValueError("a list, such as [1, 2]")
        items = [item.strip(" \"'") for item in text.strip(" []").split(",")]
        return [_parse(item, get_args(kind)[0]) for item in items if item]
    if get_origin(kind) is Literal:
        if text not in get_args(kind):
            raise ValueError(", ".join(get_args(kind)))
    elif kind is bool:
        if text.lower() not in _TRUTHS:
            raise ValueError("true, false")
        return _TRUTHS[text.lower()]
    elif kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            raise ValueError("a whole number" if kind is int else "a number") from None
    return text
