"""The interface of the losses of heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from mvqkd.distillation.context import LossContext


class HeadLoss(Protocol):
    """The losses of one head on a batch's hypotheses: an `nn.Module` whose parameters serve
    training alone. The head itself is passed in, and is not a submodule of it."""

    components: Sequence[str]
    """Names of its losses in logs. Those that begin with `num_` are counts of hypotheses, with a
    weight of 0: logs have their sum, not their mean over frames."""

    def __call__(self, head: Any, context: LossContext) -> dict[str, tuple[float, Tensor]]:
        """By name: the weight at this step, and (K,) losses of the hypotheses, summed over frames
        or tokens."""
        ...
