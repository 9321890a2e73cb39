"""An encoder of our own as a teacher that runs beside the student, on its features."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from mvqkd.distillation.context import LossContext
from mvqkd.models import ConformerEncoder, Taps

PARTS = ("query", "key", "value")
"""Of a layer's attention."""


class LayerTargets(NamedTuple):
    """Layers of a teacher at the student's frame rate."""

    taps: Taps
    """`layers.L` (N, T, D), and `layers.L.query`, `.key` and `.value` (N, H, T, d)."""
    lens: Tensor
    """(N,) int64: the frames from `first` to before these have targets."""
    first: int = 0
    """Frame."""


class LayerTeacher(Protocol):
    """Gives the teacher's side of layers."""

    def __call__(self, context: LossContext) -> LayerTargets:
        """Targets of a batch, on its device, without gradient."""
        ...


class EncoderTeacher:
    """A frozen encoder with full context, evaluated once a batch for all layers that are wanted.

    It receives the features without noise and masks, at the student's frame rate, so that its frame
    t is the student's. No module: it has no part in what is trained, saved or synchronized.

    Args:
        encoder: trained, on the training device; it is frozen here.
        layers: 1-based.
        relations: whether queries, keys and values of the layers are wanted too.

    Attributes:
        names: of the tensors.

    Raises:
        ValueError: a layer that the encoder does not have.
    """

    def __init__(
        self, encoder: ConformerEncoder, layers: Iterable[int], *, relations: bool = True
    ) -> None:
        self.encoder = encoder.eval().requires_grad_(False)
        names = [f"layers.{layer}" for layer in layers]
        if relations:
            names += [f"{name}.{part}" for name in names for part in PARTS]
        self.names = names
        Taps(names).check(encoder.tap_names())

    def __call__(self, context: LossContext) -> LayerTargets:
        """Of all valid frames, in the precision of the student's pass."""
        return LayerTargets(teacher_taps(self.encoder, context, self.names), context.lens)


@torch.no_grad()
def teacher_taps(encoder: ConformerEncoder, context: LossContext, names: Iterable[str]) -> Taps:
    """Named tensors of a teacher's pass with full context, over features without noise and masks.

    Args:
        encoder: of the teacher.
        context: of the student's batch.
        names: see `ConformerEncoder.tap_names`.
    """
    taps = Taps(names)
    once = len(context.batch) // context.batch.views  # all views of an utterance are the same
    features = context.clean_features[:once]
    lens = context.batch.feature_lens[:once]
    encoder(features, lens, taps=taps, num_layers=taps.num_layers)
    if context.batch.views == 1:
        return taps
    repeated = Taps(taps.names)
    for name in taps:
        tensor = taps[name]
        repeated.put(name, tensor.repeat(context.batch.views, *[1] * (tensor.dim() - 1)))
    return repeated
