"""Muon for the matrices of hidden layers, AdamW for everything else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from mvqkd.errors import UserError
from mvqkd.training.optimizers.adamw import adamw, divide_by_decay


class MuonWithAdamW(torch.optim.Optimizer):
    """Two optimizers that step together.

    Args:
        muon: over matrices.
        rest: over all other parameters.
    """

    def __init__(self, muon: torch.optim.Optimizer, rest: torch.optim.Optimizer) -> None:
        self._both = (muon, rest)
        super().__init__([*muon.param_groups, *rest.param_groups], {})
        # The same objects, so that a learning rate that is set here is that of the two.
        self.param_groups = [*muon.param_groups, *rest.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """A step of both."""
        assert closure is None
        for optimizer in self._both:
            optimizer.step()
        return None

    def state_dict(self) -> dict[str, Any]:
        """Of both."""
        muon, rest = self._both
        return {"muon": muon.state_dict(), "rest": rest.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From `state_dict`."""
        muon, rest = self._both
        muon.load_state_dict(state_dict["muon"])
        rest.load_state_dict(state_dict["rest"])
        self.param_groups = [*muon.param_groups, *rest.param_groups]


def build_muon(
    model: nn.Module,
    *,
    learning_rate: float,
    betas: tuple[float, float] = (0.9, 0.98),
    weight_decay: float = 0.01,
    momentum: float = 0.95,
) -> MuonWithAdamW:
    """Muon (Jordan et al. 2024; Liu et al. 2025, arXiv 2502.16982) over the matrices of the
    encoder's layers, AdamW over everything else: embeddings, output layers, convolutions, biases,
    norms.

    Updates are scaled to the size of AdamW's (Liu et al., eq. 4: 0.2 sqrt(max(rows, columns))), so
    that both have one learning rate and one weight decay.

    Raises:
        UserError: this torch has no Muon; it came with 2.9.
    """
    if not hasattr(torch.optim, "Muon"):
        raise UserError(
            f"torch {torch.__version__} has no Muon",
            remedy="torch 2.9 or later, or another optimizer",
            parameters=("optimizer",),
        )
    hidden = {
        id(parameter)
        for name, parameter in model.named_parameters()
        if parameter.ndim == 2 and ".layers." in f".{name}" and name.endswith("weight")
    }
    decayed, undecayed = divide_by_decay(model)
    matrices = [parameter for parameter in decayed if id(parameter) in hidden]
    others = [parameter for parameter in decayed if id(parameter) not in hidden]
    return MuonWithAdamW(
        torch.optim.Muon(
            matrices,
            lr=learning_rate,
            weight_decay=weight_decay,
            momentum=momentum,
            adjust_lr_fn="match_rms_adamw",
        ),
        adamw(
            (others, undecayed),
            learning_rate=learning_rate,
            betas=betas,
            weight_decay=weight_decay,
        ),
    )
