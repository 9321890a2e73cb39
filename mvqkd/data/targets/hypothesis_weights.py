"""How much each of an utterance's hypotheses counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Weighting = Literal["one_best", "equal", "posterior", "wer"]


def hypothesis_weights(
    log_probs: Sequence[float],
    weighting: Weighting,
    *,
    temperature: float = 1.0,
    error_rates: Sequence[float] | None = None,
) -> NDArray[np.float64]:
    """Weights of K hypotheses, the best first, that sum to one.

    - `one_best`: 1 for the first.
    - `equal`: 1/K, as in Mun'im et al. 2019 (arXiv 1811.04531) up to the factor K.
    - `posterior`: proportional to exp(log_prob / temperature).
    - `wer`: proportional to exp(-error rate / temperature) (Kim et al. 2019, ICASSP, have an
      exponential weight of the teacher's error rate); equal where no error rates are known.

    Args:
        log_probs: (K,) natural logarithms of the teacher's probabilities.
        weighting: as above.
        temperature: above 0; large ones make the weights equal.
        error_rates: (K,) word errors per word of the transcript.
    """
    count = len(log_probs)
    if weighting == "one_best":
        scores = np.where(np.arange(count) == 0, 0.0, -np.inf)
    elif weighting == "posterior":
        scores = np.asarray(log_probs, dtype=np.float64) / temperature
    elif weighting == "wer" and error_rates is not None:
        scores = -np.asarray(error_rates, dtype=np.float64) / temperature
    else:
        scores = np.zeros(count)
    if not count:
        return scores
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()
