"""ScaledAdam, the optimizer of the Zipformer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn


class ScaledAdam(torch.optim.Optimizer):
    """Adam whose updates are relative to a parameter's size, and which learns that size (Yao et al.
    2024, arXiv 2310.11230, section 3.4 and appendix A.1).

    With r the root mean square of a parameter, m and v the moments of its gradient g, n and w those
    of the gradient of its scale, sum(g * parameter), and c = sqrt(1 - beta2^t) / (1 - beta1^t):

        parameter -= lr * c * (max(r, min_rms) * m / (sqrt(v) + eps)
                               + scale_rate * parameter * n / (sqrt(w) + eps))

    Parameters of one element have no size to be relative to: they are updated by Adam, with
    `scalar_rate * lr`. Parameters of one shape are computed together.

    Args:
        params: parameters, or groups of them.
        lr: learning rate; a few times 1e-2, since updates are relative.
        betas: decay rates of the moments.
        eps: added to denominators.
        scale_rate: learning rate of sizes, relative to `lr`.
        scalar_rate: learning rate of parameters of one element, relative to `lr`.
        min_rms: smallest size; parameters that are zero at first have it.
        max_rms: largest size; a parameter that has reached it grows no more.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        *,
        lr: float = 0.03,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-8,
        scale_rate: float = 0.1,
        scalar_rate: float = 0.1,
        min_rms: float = 1e-5,
        max_rms: float = 3.0,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "scale_rate": scale_rate,
            "scalar_rate": scalar_rate,
            "min_rms": min_rms,
            "max_rms": max_rms,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update all parameters; one without a gradient has a gradient of zero."""
        assert closure is None
        for group in self.param_groups:
            by_shape = sorted(group["params"], key=_shape)  # stable
            for _, same in groupby(by_shape, key=_shape):
                self._update(list(same), group)
        return None

    def _update(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        """Update parameters of one shape; their state is that of the first, stacked."""
        grads = torch.stack([torch.zeros_like(p) if p.grad is None else p.grad for p in parameters])
        values = torch.stack([p.detach() for p in parameters])
        state = self.state[parameters[0]]
        if not state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(values)
            state["exp_avg_sq"] = torch.zeros_like(values)
            if values[0].numel() > 1:
                shape = (len(values), *[1] * (values.ndim - 1))
                state["scale_exp_avg"] = values.new_zeros(shape)
                state["scale_exp_avg_sq"] = values.new_zeros(shape)
        state["step"] += 1
        beta1, beta2 = group["betas"]
        correction = (1 - beta2 ** state["step"]) ** 0.5 / (1 - beta1 ** state["step"])
        rate = group["lr"] * correction
        update = _moments(state["exp_avg"], state["exp_avg_sq"], grads, group)
        if values[0].numel() == 1:
            delta = update.mul_(-rate * group["scalar_rate"])
        else:
            axes = tuple(range(1, values.ndim))
            rms = values.square().mean(axes, keepdim=True).sqrt()
            slope = (grads * values).sum(axes, keepdim=True)
            moments = (state["scale_exp_avg"], state["scale_exp_avg_sq"])
            growth = _moments(*moments, slope, group).mul_(-rate * group["scale_rate"])
            growth = growth.where(rms < group["max_rms"], growth.clamp(max=0.0))
            delta = update.mul_(rms.clamp(min=group["min_rms"]).mul_(-rate))
            delta.addcmul_(values, growth)
        for parameter, change in zip(parameters, delta.unbind(), strict=True):
            parameter.add_(change)


def _shape(parameter: nn.Parameter) -> tuple[int, ...]:
    return tuple(parameter.shape)


def _moments(mean: Tensor, square: Tensor, x: Tensor, group: dict[str, Any]) -> Tensor:
    """Update both moments with x; the first over the root of the second."""
    beta1, beta2 = group["betas"]
    mean.mul_(beta1).add_(x, alpha=1 - beta1)
    square.mul_(beta2).addcmul_(x, x, value=1 - beta2)
    return mean / square.sqrt().add_(group["eps"])
