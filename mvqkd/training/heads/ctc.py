"""Training a CTC head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mvqkd.distillation.context import LossContext
from mvqkd.losses import consistency_loss, ctc_frames, ctc_loss
from mvqkd.models import CTCHead


class CTCHeadLoss(nn.Module):
    """The CTC loss of the hypotheses: a `HeadLoss` with the components `ctc`, `consistency` if it
    is on, and `num_ctc_unaligned`, the number of those that have no alignment and so no loss.

    Args:
        weight: in the total.
        consistency_weight: of the consistency of two views of each utterance, in batches that have
            them, see `mvqkd.losses.consistency_loss`; 0: none.
    """

    def __init__(self, *, weight: float, consistency_weight: float = 0.0) -> None:
        super().__init__()
        self.weight = weight
        self.consistency_weight = consistency_weight
        losses = ("ctc", "consistency") if consistency_weight else ("ctc",)
        self.components = (*losses, "num_ctc_unaligned")

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
            found = {"ctc": (self.weight, losses)}
            if self.consistency_weight and context.batch.views == 2:
                consistency = hypotheses.of_owners(consistency_loss(log_probs, context.lens))
                found["consistency"] = (self.consistency_weight, consistency)
        unaligned = ctc_frames(hypotheses.tokens, hypotheses.lens) > lens
        return found | {"num_ctc_unaligned": (0.0, unaligned)}
