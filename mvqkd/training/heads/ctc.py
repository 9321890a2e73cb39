"""Training a CTC head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mvqkd.distillation.context import LossContext
from mvqkd.losses import ctc_frames, ctc_loss
from mvqkd.models import CTCHead


class CTCHeadLoss(nn.Module):
    """The CTC loss of the hypotheses: a `HeadLoss` with the components `ctc`, and
    `num_ctc_unaligned`, the number of those that have no alignment and so no loss.

    Args:
        weight: in the total.
    """

    components = ("ctc", "num_ctc_unaligned")

    def __init__(self, *, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, head: CTCHead, context: LossContext) -> dict[str, tuple[float, Tensor]]:
        """See `HeadLoss`."""
        hypotheses = context.batch.hypotheses
        assert hypotheses is not None
        logits, lens = head(context.encoder_out), hypotheses.of_owners(context.lens)
        with torch.autocast(logits.device.type, enabled=False):
            log_probs = logits.float().log_softmax(-1)
            losses = ctc_loss(
                hypotheses.of_owners(log_probs),
                hypotheses.tokens,
                lens,
                hypotheses.lens,
            )
        unaligned = ctc_frames(hypotheses.tokens, hypotheses.lens) > lens
        return {"ctc": (self.weight, losses), "num_ctc_unaligned": (0.0, unaligned)}
