"""Codes that are chosen for rate and distortion together.

A sum of codebooks has many near-equal descriptions of a frame, and which of them is nearest depends
on details that audio does not determine. Entropy-constrained vector quantization (Chou, Lookabaugh
& Gray 1989) minimizes distortion and rate; here the rate is that of a receiver that has the
features:

    |x - x_hat(i_1 .. i_Q)|^2 - rate_weight * energy * sum_q ln p_q(i_q | features)

where p is a `CodePredictor` that was trained on the nearest codes, and `energy` what a frame has
around the mean on average. The term is one of single codes, so the search stays as it is.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from mvqkd.quantization.predictability.code_predictor import CodePredictor
from mvqkd.quantization.quantizer import Quantizer


def encode_with_rate(
    quantizer: Quantizer,
    predictor: CodePredictor,
    x: Tensor,
    features: Tensor,
    *,
    rate_weight: float,
) -> Tensor:
    """Codes of one utterance.

    Args:
        quantizer: of the embeddings.
        predictor: of this quantizer's codes, with their energy.
        x: (T, D) embeddings, on the quantizer's device.
        features: (T', C) of the same audio. Frames after their end get their nearest codes.
        rate_weight: cost of a nat, as a fraction of the energy; 0: the nearest codes.

    Returns:
        (T, Q) uint8.

    Raises:
        ValueError: the predictor is of another quantizer, or has no energy.
    """
    if predictor.quantizer_id != quantizer.id:
        raise ValueError(
            f"the predictor is of codes of quantizer {predictor.quantizer_id}, not {quantizer.id}"
        )
    if not predictor.energy > 0:
        raise ValueError("the predictor does not know the energy of embeddings")
    if rate_weight == 0:
        return quantizer.encode(x)
    rate = -predictor.log_probabilities(features, len(x)).to(x.device)
    rate = F.pad(rate, (0, 0, 0, 0, 0, len(x) - len(rate)))
    return quantizer.encode(x, penalty=rate_weight * predictor.energy * rate)
