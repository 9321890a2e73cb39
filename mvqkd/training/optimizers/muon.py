"""Muon for the matrices of hidden layers, AdamW for everything else."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mvqkd.training.optimizers.adamw import adamw, divide_by_decay

_IN_LAYERS = re.compile(r"(^|encoder\.)layers\.")
"""Names of parameters of an encoder's layers; a distillation loss may be named `layers`, too."""


def orthogonalize(
    matrices: Tensor, polynomials: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Matrices U V^T for matrices U S V^T, nearly: the singular values become 0.7 to 1.2.

    Args:
        matrices: (N, rows, columns), no more rows than columns.
        polynomials: computes `newton_schulz`; None: that itself.

    Returns:
        (N, rows, columns), float32
    """
    x = matrices.float()
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)
    return (polynomials or newton_schulz)(x @ x.mT) @ x


def newton_schulz(grams: Tensor, num_iterations: int = 5) -> Tensor:
    """What the iteration X <- a X + b A X + c A^2 X, A = X X^T (Jordan et al. 2024), multiplies X
    with, from the first A alone: all its iterates are polynomials of it, and commute.

    That is half the work of the iteration itself, and in float32 as exact. (`torch.optim.Muon`
    computes in bfloat16, which takes many times as long on a CPU without instructions for it.)

    Args:
        grams: (N, rows, rows): A of matrices whose singular values are at most 1.
        num_iterations: of the iteration.

    Returns:
        (N, rows, rows)
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    total = None
    for i in range(num_iterations):
        factor = torch.baddbmm(grams, grams, grams, beta=b, alpha=c)
        factor.diagonal(dim1=1, dim2=2).add_(a)
        total = factor if total is None else factor @ total
        if i + 1 < num_iterations:
            grams = factor @ grams @ factor
    assert total is not None
    return total


def shared_newton_schulz(grams: Tensor) -> Tensor:
    """`newton_schulz`, of which each process of `torch.distributed` computes a part; every process
    must call it, with the same matrices."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return newton_schulz(grams)
    part = slice(dist.get_rank(), None, dist.get_world_size())
    found = torch.zeros_like(grams)
    if len(grams[part]):
        found[part] = newton_schulz(grams[part])
    dist.all_reduce(found)  # adds zeros: exact
    return found


class Muon(torch.optim.Optimizer):
    """Steps along the orthogonalized momentum of matrices (Jordan et al. 2024).

    Weight decay is decoupled. Updates have the size of AdamW's: 0.2 sqrt(max(rows, columns)) times
    an orthogonal matrix (Liu et al. 2025, arXiv 2502.16982, eq. 4). Matrices of one shape,
    transposed or not, are computed together, and processes share the work.

    With small batches orthogonalization takes as long as the gradient. Momentum turns slowly, so
    that it need not be orthogonalized in every step: with an interval of k, a k-th of the matrices
    moves in each step, k times as far.

    Args:
        params: matrices, or groups of them.
        lr: learning rate.
        momentum: decay rate of the mean of gradients; Nesterov's variant.
        weight_decay: of the matrices.
        interval: steps from one update of a matrix to its next.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        *,
        lr: float = 1e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
        interval: int = 1,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, {**defaults, "interval": interval, "num_steps": 0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update all matrices; one without a gradient has a gradient of zero."""
        assert closure is None
        for group in self.param_groups:
            by_shape = sorted(group["params"], key=_sides)  # stable
            for parameter in by_shape:
                self._remember(parameter, group["momentum"])
            first = group["num_steps"] % group["interval"]
            for _, same in groupby(by_shape[first :: group["interval"]], key=_sides):
                self._update(list(same), group)
            group["num_steps"] += 1
        return None

    def _remember(self, parameter: nn.Parameter, momentum: float) -> None:
        """Add the gradient to its mean."""
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        state["momentum_buffer"].lerp_(_gradient(parameter), 1 - momentum)

    def _update(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        """Update matrices of one shape."""
        directions = []
        for parameter in parameters:
            mean = self.state[parameter]["momentum_buffer"]
            direction = _gradient(parameter).lerp(mean, group["momentum"])
            directions.append(direction.mT if _is_tall(parameter) else direction)
        updates = orthogonalize(torch.stack(directions), shared_newton_schulz)
        rate = group["interval"] * group["lr"]
        size = 0.2 * max(parameters[0].shape) ** 0.5
        for parameter, update in zip(parameters, updates, strict=True):
            parameter.mul_(1 - rate * group["weight_decay"])
            parameter.add_(update.mT if _is_tall(parameter) else update, alpha=-rate * size)


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _is_tall(matrix: Tensor) -> bool:
    return matrix.shape[0] > matrix.shape[1]


def _sides(matrix: Tensor) -> list[int]:
    return sorted(matrix.shape)


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
    interval: int = 1,
) -> MuonWithAdamW:
    """Muon (Jordan et al. 2024; Liu et al. 2025, arXiv 2502.16982) over the matrices of the
    encoder's layers, AdamW over everything else: embeddings, output layers, convolutions, biases,
    norms.

    Updates are scaled to the size of AdamW's (Liu et al., eq. 4: 0.2 sqrt(max(rows, columns))), so
    that both have one learning rate and one weight decay.
    """
    hidden = {
        id(parameter)
        for name, parameter in model.named_parameters()
        if parameter.ndim == 2 and _IN_LAYERS.search(name)
    }
    decayed, undecayed = divide_by_decay(model)
    matrices = [parameter for parameter in decayed if id(parameter) in hidden]
    others = [parameter for parameter in decayed if id(parameter) not in hidden]
    return MuonWithAdamW(
        Muon(
            matrices,
            lr=learning_rate,
            momentum=momentum,
            weight_decay=weight_decay,
            interval=interval,
        ),
        adamw(
            (others, undecayed),
            learning_rate=learning_rate,
            betas=betas,
            weight_decay=weight_decay,
        ),
    )
