"""Training a transducer head."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from mvqkd.distillation.context import LossContext, TransducerBand
from mvqkd.losses import PrunedTransducerLoss
from mvqkd.losses.pruned_transducer import blank_padding
from mvqkd.models import TransducerHead
from mvqkd.training.schedule import loss_scales


class TransducerHeadLoss(nn.Module):
    """The pruned transducer loss of the hypotheses: a `HeadLoss` with the components `simple` and
    `pruned`.

    Args:
        pruned: the loss, of the widths of the encoder and the predictor.
        weight: of both in the total.
        simple_scale: weight of the simple loss after the warm-up, see `loss_scales`.
        warmup_steps: of that.
        detached_steps: steps at the beginning in which the encoder gets no gradient from this head
            and is trained by the others alone (an encoder trained by CTC first: Rao et al. 2017,
            arXiv 1801.00841, section 4). On little data the transducer loss otherwise holds the
            encoder for long at ignoring its input: all it gets from it at first is noise.
        delay_penalty: see `PrunedTransducerLoss.forward`. Not before the end of twice the warm-up,
            as in icefall: what has not been aligned yet would move to the first frames. Never in
            validation.
    """

    components = ("simple", "pruned")

    def __init__(
        self,
        pruned: PrunedTransducerLoss,
        *,
        weight: float = 1.0,
        simple_scale: float = 0.5,
        warmup_steps: int = 1000,
        detached_steps: int = 0,
        delay_penalty: float = 0.0,
    ) -> None:
        super().__init__()
        self.pruned = pruned
        self.weight = weight
        self.simple_scale = simple_scale
        self.warmup_steps = warmup_steps
        self.detached_steps = detached_steps
        self.delay_penalty = delay_penalty

    def forward(
        self, head: TransducerHead, context: LossContext
    ) -> dict[str, tuple[float, Tensor]]:
        """See `HeadLoss`; leaves what others may need in `context.transducer`."""
        hypotheses, step = context.batch.hypotheses, context.step
        assert hypotheses is not None
        predictor_out = head.predictor(F.pad(hypotheses.tokens, (1, 0), value=head.blank))
        encoder_out = context.encoder_out
        if step is not None and step <= self.detached_steps:
            encoder_out = encoder_out.detach()
        encoder_out = hypotheses.of_owners(encoder_out)
        text = (hypotheses.tokens, hypotheses.of_owners(context.lens), hypotheses.lens)
        penalized = step is not None and step > 2 * self.warmup_steps
        penalty = self.delay_penalty if penalized else 0.0
        simple, band = self.pruned.choose_band(
            encoder_out, predictor_out, *text, delay_penalty=penalty
        )
        pruned = self.pruned.score(
            band, encoder_out, predictor_out, head.joiner, *text, delay_penalty=penalty
        )
        tokens = blank_padding(hypotheses.tokens, hypotheses.lens)
        context.transducer = TransducerBand(band, predictor_out, tokens, head.joiner)
        simple_scale, pruned_scale = loss_scales(
            self.warmup_steps if step is None else step,
            warmup_steps=self.warmup_steps,
            simple_scale=self.simple_scale,
        )
        return {
            "simple": (self.weight * simple_scale, simple),
            "pruned": (self.weight * pruned_scale, pruned),
        }
