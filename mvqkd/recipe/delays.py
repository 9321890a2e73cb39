"""Delays that are longer than every utterance: no frame would have a target."""

from __future__ import annotations

from collections.abc import Mapping

from mvqkd.errors import UserError
from mvqkd.recipe.config.schema import DistillationConfig


def check_delays(distillation: DistillationConfig, train: Mapping[str, int]) -> None:
    """Check the delays of losses whose teachers run beside the student.

    Args:
        distillation: the section of an experiment.
        train: encoder frames of all that is trained on, by utterance.

    Raises:
        UserError: see `check_delay`.
    """
    outputs, layers = distillation.outputs, distillation.layers
    if outputs.weight:
        check_delay("distillation.outputs.target_delay", outputs.target_delay, train)
    if layers.weight and layers.future_weight:
        check_delay("distillation.layers.future_shift", layers.future_shift, train)


def check_delay(option: str, delay: int, train: Mapping[str, int]) -> None:
    """Check that a delay leaves a frame of some utterance a target.

    Args:
        option: that gives the delay.
        delay: frames of the student.
        train: encoder frames of all that is trained on, by utterance.

    Raises:
        UserError: no utterance is longer than the delay.
    """
    longest = max(train.values(), default=0)
    if delay >= longest:
        raise UserError(
            f"no frame has a target: {option} is {delay} frames of the student, the longest "
            f"utterance has {longest}",
            remedy=f"--{option} with fewer frames, such as 0 to 5",
        )
