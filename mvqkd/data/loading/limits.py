"""How much audio and text a step of training holds, and a batch of one process."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mvqkd.errors import UserError

# Of the audio. A few long utterances are better skipped than a reason to stop; a limit that many
# exceed is a mistake.
_MOST_EXCLUDED = 0.1


@dataclass(frozen=True)
class StepSize:
    """What a step holds, over all processes and accumulated batches: a property of the training."""

    duration: float
    """Seconds of audio, without padding."""
    tokens: int
    """Tokens of transcripts."""


@dataclass(frozen=True)
class BatchLimits:
    """What one forward pass of a process can hold: a property of the machine, which changes what a
    step is divided into, not the step."""

    duration: float = math.inf
    """Of batch size x longest utterance, in seconds."""
    tokens: float = math.inf
    """Of token sequences (transcripts or hypotheses) x most tokens."""


class TargetSizes(NamedTuple):
    """What losses cost of N utterances: an utterance with K hypotheses costs K transcripts."""

    counts: NDArray[np.int64]
    """(N,) token sequences that an utterance is trained to be recognized as; 0: audio alone."""
    longest: NDArray[np.int64]
    """(N,) tokens of the longest of them."""

    def padded(self, numbers: NDArray[np.int64]) -> int:
        """Tokens of a batch of these utterances, padding included."""
        return int(self.counts[numbers].sum() * self.longest[numbers].max(initial=0))


def fits_step(
    amounts: NDArray[np.float64] | NDArray[np.int64],
    limit: float,
    unit: str,
    *,
    seconds: NDArray[np.float64],
    ids: NDArray[np.bytes_],
) -> NDArray[np.bool_]:
    """Which utterances a step can hold; the log says how many are skipped.

    Args:
        amounts: (N,) seconds or tokens of utterances.
        limit: of a step.
        unit: `duration` (in seconds) or `tokens`: the limit is `step_<unit>`.
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
            f"{seconds.sum() / 3600:.3g} hours, exceed the step_{unit}, {limit:.6g}: "
            f"{ids[worst].decode()} has {amounts[worst]:.6g}"
        )
        enough = f"a step_{unit} of {int(np.ceil(amounts[worst]))} takes them all"
        if seconds[out].sum() > _MOST_EXCLUDED * seconds.sum():
            raise UserError(
                found,
                remedy=f"{enough}; at most {_MOST_EXCLUDED:.0%} of the audio may be skipped",
                parameters=(f"step_{unit}",),
            )
        logging.warning("skipped in training: %s (%s)", found, enough)
    return within


def check_fits_batch(
    amounts: NDArray[np.float64] | NDArray[np.int64],
    limit: float,
    unit: str,
    *,
    ids: NDArray[np.bytes_],
) -> None:
    """Refuse utterances that no batch of a process can hold: leaving them out here would make the
    training depend on the machine.

    Args:
        amounts, ids: see `fits_step`.
        limit: of a batch.
        unit: the limit is `batch_<unit>`.

    Raises:
        UserError: there are such utterances.
    """
    if len(amounts) and amounts.max() > limit:
        worst = int(amounts.argmax())
        raise UserError(
            f"{(amounts > limit).sum()} of {len(amounts)} utterances exceed the batch_{unit}, "
            f"{limit:.6g}: {ids[worst].decode()} has {amounts[worst]:.6g}",
            remedy=f"a batch_{unit} of {int(np.ceil(amounts[worst]))} or more; where there is no "
            f"memory for it, a smaller step_{unit} excludes them from the training",
            parameters=(f"batch_{unit}", f"step_{unit}"),
        )
