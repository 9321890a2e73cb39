"""Training an attention decoder."""

from __future__ import annotations

from torch import Tensor, nn

from mvqkd.distillation.context import DecoderOutput, LossContext
from mvqkd.losses import cross_entropy_loss, decoder_inputs, decoder_targets
from mvqkd.models import AttentionDecoder


class AttentionHeadLoss(nn.Module):
    """The cross-entropy of the hypotheses, with `<sos/eos>` at their ends: a `HeadLoss` with the
    component `attention`.

    Args:
        weight: in the total.
        smoothing: of labels, see `cross_entropy_loss`; none in validation.
        forcing: see `AttentionDecoder.__call__`.
    """

    components = ("attention",)

    def __init__(self, *, weight: float, smoothing: float = 0.0, forcing: float = 1.0) -> None:
        super().__init__()
        self.weight = weight
        self.smoothing = smoothing
        self.forcing = forcing

    def forward(
        self, head: AttentionDecoder, context: LossContext
    ) -> dict[str, tuple[float, Tensor]]:
        """See `HeadLoss`; leaves what others may need in `context.decoder`."""
        hypotheses = context.batch.hypotheses
        assert hypotheses is not None
        memory = head.memory(context.encoder_out, context.lens)
        inputs = decoder_inputs(hypotheses.tokens, head.sos_eos)
        targets = decoder_targets(hypotheses.tokens, hypotheses.lens, head.sos_eos)
        owners = None if hypotheses.one_each else hypotheses.owners
        logits = head(memory, inputs, owners, forcing=self.forcing)
        context.decoder = DecoderOutput(logits, inputs, targets)
        smoothing = 0.0 if context.step is None else self.smoothing
        return {
            "attention": (self.weight, cross_entropy_loss(logits, targets, smoothing=smoothing))
        }
