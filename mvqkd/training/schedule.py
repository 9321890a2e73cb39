"""Learning rates as functions of the step; nothing here has a state."""

from __future__ import annotations

import math


def cosine(step: int, *, warmup_steps: int, total_steps: int, final_fraction: float = 0.0) -> float:
    """Linear warm-up, then half a cosine to `final_fraction` (Loshchilov & Hutter 2017, eq. 5).

    Args:
        step: counts from 1.
        warmup_steps: the step at which the factor is 1.
        total_steps: the step from which the factor is `final_fraction`.
        final_fraction: in [0, 1].

    Returns:
        Factor of the peak learning rate, in (0, 1].
    """
    if step < warmup_steps:
        return step / warmup_steps
    part = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return final_fraction + (1 - final_fraction) * 0.5 * (1 + math.cos(math.pi * part))


def noam(step: int, *, warmup_steps: int) -> float:
    """Linear warm-up, then the inverse square root (Vaswani et al. 2017, section 5.3), scaled to a
    peak of 1.

    Args:
        step: counts from 1.
        warmup_steps: the step at which the factor is 1.
    """
    warmup_steps = max(1, warmup_steps)
    return min(step / warmup_steps, math.sqrt(warmup_steps / step))


def eden(
    step: int,
    *,
    epoch: float,
    warmup_steps: int,
    decay_steps: float,
    decay_epochs: float,
) -> float:
    """Falls with steps and with epochs, each as an inverse square root in the end, after a linear
    warm-up from one half (Eden, Yao et al. 2024, arXiv 2310.11230, appendix A.2).

    Args:
        step: counts from 1.
        epoch: passes over the data so far, with fractions.
        warmup_steps: the step at which the warm-up ends.
        decay_steps: steps at which the first factor is 2^(-1/4).
        decay_epochs: epochs at which the second is.

    Returns:
        Factor of the base learning rate, in (0, 1].
    """
    warmup = 0.5 + 0.5 * min(1.0, step / max(1, warmup_steps))
    by_step = ((step / decay_steps) ** 2 + 1) ** -0.25
    by_epoch = ((epoch / decay_epochs) ** 2 + 1) ** -0.25
    return warmup * by_step * by_epoch


def loss_scales(step: int, *, warmup_steps: int, simple_scale: float) -> tuple[float, float]:
    """Weights of the simple and of the pruned loss.

    The pruning follows the simple loss's occupation, which means nothing at first: the simple
    loss begins with weight 1 and falls to `simple_scale`, the pruned loss grows from 0.1 to 1, both
    linearly over `warmup_steps`, as in icefall.
    """
    if step >= warmup_steps:
        return simple_scale, 1.0
    part = step / warmup_steps
    return 1.0 - part * (1.0 - simple_scale), 0.1 + 0.9 * part
