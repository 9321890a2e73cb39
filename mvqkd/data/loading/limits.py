"""What a batch can hold."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mvqkd.errors import UserError

# Of the audio. A few long utterances are better skipped than a reason to stop; a limit that many
# exceed is a mistake.
_MOST_LEFT_OUT = 0.1


@dataclass(frozen=True)
class BatchLimits:
    """Limits of a batch; they bound the memory of a training step."""

    max_duration: float
    """Of batch size x longest utterance, in seconds."""
    max_tokens: int
    """Of batch size x most tokens."""


def within_limit(
    amounts: NDArray[np.float64] | NDArray[np.int64],
    limit: float,
    unit: str,
    *,
    seconds: NDArray[np.float64],
    ids: NDArray[np.bytes_],
) -> NDArray[np.bool_]:
    """Which utterances a batch can hold; the log says how many are skipped.

    Args:
        amounts: (N,) seconds or tokens of utterances.
        limit: of a batch.
        unit: `duration` (in seconds) or `tokens`: the limit is `max_<unit>`.
        seconds: (N,) durations.
        ids: (N,) names for the log.

    Returns:
        (N,): within the limit.

    Raises:
        UserError: more than a tenth of the audio would be skipped.
    """
    within = amounts <= limit
    if not within.all():
        out, worst = ~within, int(amounts.argmax())
        found = (
            f"{out.sum()} of {len(out)} utterances, {seconds[out].sum() / 3600:.3g} of "
            f"{seconds.sum() / 3600:.3g} hours, exceed the max_{unit} of a batch, {limit:.6g}: "
            f"{ids[worst].decode()} has {amounts[worst]:.6g}"
        )
        enough = f"a max_{unit} of {int(np.ceil(amounts[worst]))} takes them all"
        if seconds[out].sum() > _MOST_LEFT_OUT * seconds.sum():
            raise UserError(
                found,
                remedy=f"{enough}; at most {_MOST_LEFT_OUT:.0%} of the audio may be skipped",
                parameters=(f"max_{unit}",),
            )
        logging.warning("skipped in training: %s (%s)", found, enough)
    return within
