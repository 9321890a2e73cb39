"""Codes that a student can learn: of several that describe a frame about equally well, those that
the utterance's features make likely.

A sum of codebooks has many near-equal descriptions of a frame, and the nearest one depends on
details that nobody hears. So the choice minimizes distortion and rate together, as in
entropy-constrained vector quantization (Chou, Lookabaugh & Gray 1989), with the rate of a listener
who knows the features:

    |x - x_hat(i_1 .. i_Q)|^2 - rate_weight * energy * sum_q ln p_q(i_q | features)

where p is a `CodeProbe` that was trained on the nearest codes, and `energy` what a frame has around
the mean on average. The term is one of single codes, so the search stays as it is.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from mvqkd.quantization.predictability.code_predictor import CodeProbe
from mvqkd.quantization.quantizer import Quantizer


def encode_predictably(
    quantizer: Quantizer,
    probe: CodeProbe,
    x: Tensor,
    features: Tensor,
    *,
    rate_weight: float,
) -> Tensor:
    """Codes of one utterance.

    Args:
        quantizer: of the embeddings.
        probe: of this quantizer's codes, with their energy.
        x: (T, D) embeddings, on the quantizer's device.
        features: (T', C) of the same audio. Frames after their end get their nearest codes.
        rate_weight: cost of a nat, as a part of the energy; 0: the nearest codes.

    Returns:
        (T, Q) uint8.

    Raises:
        ValueError: the probe is of another quantizer, or has no energy.
    """
    if probe.quantizer_id != quantizer.id:
        raise ValueError(
            f"the probe is of the codes of quantizer {probe.quantizer_id}, not {quantizer.id}"
        )
    if not probe.energy > 0:
        raise ValueError("the probe does not know the energy of embeddings")
    if rate_weight == 0:
        return quantizer.encode(x)
    rate = -probe.log_probabilities(features, len(x)).to(x.device)
    rate = F.pad(rate, (0, 0, 0, 0, 0, len(x) - len(rate)))
    return quantizer.encode(x, penalty=rate_weight * probe.energy * rate)
