"""Cross-entropy of token sequences, for decoders that predict each token from those before it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mvqkd.geometry import TARGET_PADDING


def decoder_inputs(tokens: Tensor, sos_eos: int) -> Tensor:
    """(K, U) tokens, -100 in padding -> (K, U + 1): the first token is `sos_eos`, which also
    stands in the padding."""
    inputs = F.pad(tokens, (1, 0), value=sos_eos)
    return inputs.masked_fill(inputs < 0, sos_eos)


def decoder_targets(tokens: Tensor, lens: Tensor, sos_eos: int) -> Tensor:
    """(K, U) tokens, of which (K,) are valid -> (K, U + 1): `sos_eos` after the last, then -100."""
    positions = torch.arange(tokens.size(1) + 1, device=tokens.device)
    end = lens.to(tokens.device)[:, None]
    targets = F.pad(tokens, (0, 1)).where(positions < end, TARGET_PADDING)
    return targets.masked_fill(positions == end, sos_eos)


def cross_entropy_loss(logits: Tensor, targets: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of each sequence with smoothed labels, summed over its tokens.

    With V tokens the label of a position is 1 - smoothing for its target plus smoothing / V for
    every token (Szegedy et al. 2016, arXiv 1512.00567, section 7).

    Args:
        logits: (K, U, V). The loss is computed in float32 at least.
        targets: (K, U) int64; -100 where there is none.
        smoothing: in 0..1.

    Returns:
        (K,), float32 (float64 if `logits` is).
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = F.cross_entropy(
        logits.transpose(1, 2),
        targets,
        ignore_index=TARGET_PADDING,
        label_smoothing=smoothing,
        reduction="none",
    )
    return losses.sum(1)
