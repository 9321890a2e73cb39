"""AdamW with weight decay where it belongs."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn


def build_adamw(
    model: nn.Module,
    *,
    learning_rate: float,
    betas: tuple[float, float] = (0.9, 0.98),
    weight_decay: float = 0.01,
) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019) over all parameters of `model` that learn.

    The weights of linear, convolutional and recurrent layers decay. Biases, norms, scales and
    embeddings do not: to shrink those changes what a layer computes rather than how smooth it is.
    """
    return adamw(
        divide_by_decay(model), learning_rate=learning_rate, betas=betas, weight_decay=weight_decay
    )


def divide_by_decay(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters that learn: those that decay, and those that do not."""
    embeddings = {
        id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)
    }
    decayed: list[nn.Parameter] = []
    undecayed: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_weight = parameter.ndim >= 2 and name.rpartition(".")[2].startswith("weight")
        decays = is_weight and id(parameter) not in embeddings
        (decayed if decays else undecayed).append(parameter)
    return decayed, undecayed


def adamw(
    parameters: tuple[Iterable[nn.Parameter], Iterable[nn.Parameter]],
    *,
    learning_rate: float,
    betas: tuple[float, float],
    weight_decay: float,
) -> torch.optim.AdamW:
    """AdamW over parameters that decay, and others that do not."""
    decayed, undecayed = map(list, parameters)
    return torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": weight_decay},
            {"params": undecayed, "weight_decay": 0.0},
        ],
        lr=learning_rate,
        betas=betas,
        fused=True,
    )
