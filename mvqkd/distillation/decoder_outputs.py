"""Imitation of the token probabilities of an attention encoder-decoder that runs beside the
student."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mvqkd.distillation.context import DecoderOutput, LossContext
from mvqkd.distillation.outputs import of_utterances
from mvqkd.geometry import TARGET_PADDING
from mvqkd.models import FULL_CONTEXT, AttentionDecoder, Encoder, StreamingConfig


class DecoderTeacher:
    """A frozen encoder-decoder with the student's tokens. It receives the features without noise
    and masks. No module: it has no part in what is trained, saved or synchronized.

    Args:
        encoder: trained, on the training device; it is frozen here.
        decoder: likewise.
        streaming: chunks of the encoder.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: AttentionDecoder,
        *,
        streaming: StreamingConfig = FULL_CONTEXT,
    ) -> None:
        for module in (encoder, decoder):
            assert isinstance(module, nn.Module)
            module.eval().requires_grad_(False)
        self.encoder = encoder
        self.decoder = decoder
        self.streaming = streaming

    @torch.no_grad()
    def __call__(self, context: LossContext, inputs: Tensor) -> Tensor:
        """(K, U + 1) tokens of the batch's hypotheses, as the student received them, -> logits
        (K, U + 1, V)."""
        hypotheses = context.batch.hypotheses
        assert hypotheses is not None
        views = context.batch.views
        once = len(context.batch) // views  # all views of an utterance are the same
        out, lens = self.encoder(
            context.clean_features[:once],
            context.batch.feature_lens[:once],
            chunk_size=self.streaming.chunk_size,
            left_context=self.streaming.left_context,
        )
        memory = self.decoder.memory(out.repeat(views, 1, 1), lens.repeat(views))
        owners = None if hypotheses.one_each else hypotheses.owners
        return self.decoder(memory, inputs, owners)


class TokenDivergence(nn.Module):
    """KL(teacher || student) of each next token, given the tokens before it in the hypotheses that
    the student is trained on: a `DistillationLoss` of batches with hypotheses (word-level
    distillation, Kim and Rush 2016, arXiv 1606.07947, section 3.1; beside pseudo labels in
    Distil-Whisper, Gandhi et al. 2023, arXiv 2311.00430, section 4).

        L = sum_k w_k sum_u tau^2 KL(softmax(a / tau) || softmax(b / tau))

    for the logits a of the teacher and b of the student at token u of hypothesis k, of weight w_k.

    Args:
        teacher: runs on every batch.
        weight, final_weight_fraction: see `DistillationLoss`.
        temperature: tau.
    """

    taps: list[str] = []  # noqa: RUF012 (of the protocol)
    validates = True
    needs_hypotheses = True

    def __init__(
        self,
        teacher: DecoderTeacher,
        *,
        weight: float,
        final_weight_fraction: float = 1.0,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.teacher = teacher
        self.weight = weight
        self.final_weight_fraction = final_weight_fraction
        self.temperature = temperature

    def forward(self, context: LossContext) -> Tensor:
        """See `DistillationLoss`.

        Raises:
            ValueError: the student has no attention decoder.
        """
        student = context.decoder
        if student is None:
            raise ValueError("the student has no attention decoder to imitate another with")
        losses = self._divergences(student, self.teacher(context, student.inputs))
        return of_utterances(losses, context)

    def _divergences(self, student: DecoderOutput, teacher: Tensor) -> Tensor:
        """(K,) sums over tokens, in float32."""
        with torch.autocast(teacher.device.type, enabled=False):
            target = (teacher.float() / self.temperature).log_softmax(-1)
            found = (student.logits.float() / self.temperature).log_softmax(-1)
            divergences = (target.exp() * (target - found)).sum(-1)
        return self.temperature**2 * divergences.masked_fill(
            student.targets == TARGET_PADDING, 0.0
        ).sum(1)
