"""Weights of one student, and of its head losses, for another of another depth, vocabulary or other
heads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

VOCABULARY = (
    "transducer.predictor.embedding.weight",
    "transducer.joiner.output.weight",
    "transducer.joiner.output.bias",
    "ctc.output.weight",
    "ctc.output.bias",
    "attention.embedding.weight",
    "attention.output.weight",
    "attention.output.bias",
    # Of head losses.
    "transducer.pruned.project_encoder.weight",
    "transducer.pruned.project_encoder.bias",
    "transducer.pruned.project_predictor.weight",
    "transducer.pruned.project_predictor.bias",
)
"""Weights with a row for each token."""


class Fitted(NamedTuple):
    """What a student takes over."""

    weights: dict[str, Tensor]
    """All of the student's; those that did not fit are its own."""
    taken: list[str]
    """Names of those that were taken over, some rows at least."""
    lacking: list[str]
    """Of the student, but not of the other one."""
    different: list[str]
    """Of another shape, in words."""
    unused: list[str]
    """Of the other one, but not of the student."""
    shared_tokens: int | None
    """Tokens whose rows were taken over; None where the vocabularies are the same."""


def fit_weights(
    own: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    *,
    tokens: Sequence[str] | None = None,
    given_tokens: Sequence[str] | None = None,
) -> Fitted:
    """Take over every weight of the same name and shape. With other tokens, the rows of those that
    both have.

    Args:
        own: state dict of the student.
        given: of the other one.
        tokens: of the student; None: not known.
        given_tokens: of the other one.
    """
    rows: list[tuple[int, int]] | None = None
    if tokens is not None and given_tokens is not None and list(tokens) != list(given_tokens):
        places = {token: place for place, token in enumerate(given_tokens)}
        rows = [(n, places[token]) for n, token in enumerate(tokens) if token in places]
    fitted = Fitted(dict(own), [], [], [], [], None if rows is None else len(rows))
    for name, value in own.items():
        other = given.get(name)
        if other is None:
            fitted.lacking.append(name)
        elif rows is not None and name in VOCABULARY and value.shape[1:] == other.shape[1:]:
            value = value.clone()
            here, there = [n for n, _ in rows], [place for _, place in rows]
            value[here] = other[there].to(value)
            fitted.weights[name] = value
            fitted.taken.append(name)
        elif value.shape == other.shape:
            fitted.weights[name] = other
            fitted.taken.append(name)
        else:
            shapes = f"{list(other.shape)} in the file, {list(value.shape)} here"
            fitted.different.append(f"{name}: {shapes}")
    fitted.unused.extend(name for name in given if name not in own)
    return fitted


def summary(names: Sequence[str]) -> str:
    """Names of weights by the modules that they belong to, layers as a range."""
    parts = []
    for name in names:
        layer = re.match(r"(encoder\.layers\.\d+|[a-z]+\.[a-z_]+)", name)
        parts.append(layer[1] if layer else name)
    return ", ".join(dict.fromkeys(parts))
