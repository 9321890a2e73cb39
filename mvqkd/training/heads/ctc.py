"""Training a CTC head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mvqkd.distillation.context import LossContext
from mvqkd.losses import ctc_loss
from mvqkd.models import CTCHead


class CTCHeadLoss(nn.Module):
    """The CTC loss of the hypotheses: a `HeadLoss` with the component `ctc`.

    Args:
        weight: in the total.
    """

    components = ("ctc",)

    def __init__(self, *, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, head: CTCHead, context: LossContext) -> dict[str, tuple[float, Tensor]]:
        """See `HeadLoss`."""
        hypotheses = context.batch.hypotheses
        assert hypotheses is not None
        logits = head(context.encoder_out)
        with torch.autocast(logits.device.type, enabled=False):
            log_probs = logits.float().log_softmax(-1)
            losses = ctc_loss(
                hypotheses.of_owners(log_probs),
                hypotheses.tokens,
                hypotheses.of_owners(context.lens),
                hypotheses.lens,
            )
        return {"ctc": (self.weight, losses)}
