"""AdamW with weight decay where it belongs."""

from __future__ import annotations

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
    return torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": weight_decay},
            {"params": undecayed, "weight_decay": 0.0},
        ],
        lr=learning_rate,
        betas=betas,
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
