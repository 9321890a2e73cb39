"""Training a CTC head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mvqkd.distillation.context import LossContext
from mvqkd.losses import consistency_loss, ctc_loss
from mvqkd.models import CTCHead


class CTCHeadLoss(nn.Module):
    """The CTC loss of the hypotheses: a `HeadLoss` with the component `ctc`, and `consistency`.

    Args:
        weight: in the total.
        consistency_weight: of the consistency of two views of each utterance, in batches that have
            them, see `mvqkd.losses.consistency_loss`; 0: none.
    """

    def __init__(self, *, weight: float, consistency_weight: float = 0.0) -> None:
        super().__init__()
        self.weight = weight
        self.consistency_weight = consistency_weight
        self.components = ("ctc", "consistency") if consistency_weight else ("ctc",)

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
            found = {"ctc": (self.weight, losses)}
            if self.consistency_weight and context.batch.views == 2:
                consistency = hypotheses.of_owners(consistency_loss(log_probs, context.lens))
                found["consistency"] = (self.consistency_weight, consistency)
        return found
