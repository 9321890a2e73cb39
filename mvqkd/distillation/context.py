"""What every loss of a step receives: one object, made once for each batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from mvqkd.data.loading.batch import Batch
from mvqkd.losses import Band
from mvqkd.models import FULL_CONTEXT, Joiner, StreamingConfig, Taps


class EncoderPass(NamedTuple):
    """The student's encoder on the features of a step."""

    out: Tensor
    """(N, T, D), zero after each utterance's end. Without hypotheses only the layers up to the
    highest tap were computed: a loss that wants the output asks for the tap `output`."""
    lens: Tensor
    """(N,) int64 valid frames (25 Hz)."""
    taps: Taps
    """Tensors of the names that the losses asked for."""


class TransducerBand(NamedTuple):
    """What the transducer head computed of a batch's hypotheses."""

    band: Band
    """The cells of the lattice that the pruned loss keeps."""
    predictor_out: Tensor
    """(K, U + 1, Dp); position u has seen the first u tokens."""
    tokens: Tensor
    """(K, U) int64 tokens, 0 in padding."""
    joiner: Joiner
    """Of the student."""


class DecoderOutput(NamedTuple):
    """What the attention decoder computed of a batch's hypotheses."""

    logits: Tensor
    """(K, U + 1, V); position u has received the first u tokens."""
    inputs: Tensor
    """(K, U + 1) int64: `<sos/eos>`, then the tokens."""
    targets: Tensor
    """(K, U + 1) int64: the tokens, then `<sos/eos>`; -100 in padding."""


class LossContext:
    """A batch in a step of training or validation.

    Args:
        encode: runs the student's encoder on `features`.
        batch: as the loader made it.
        features: (N, T, C), what the student receives: the batch's, masked by SpecAugment.
        streaming: of this step.
        time_mask: (N, T) bool, True in frames of features that SpecAugment masked in time; None
            without SpecAugment.
        step: of the training; None in validation, where warm-ups have ended.
        detached: whether losses of `encoder_out` give the encoder no gradient.

    Attributes:
        transducer: what the transducer head computed, once it has; None without hypotheses.
        decoder: what the attention decoder computed, likewise.
        parts: (N,) losses that others are the sums of, for logs, by name; see `DistillationLoss`.
    """

    def __init__(
        self,
        encode: Callable[[Tensor, StreamingConfig], EncoderPass],
        batch: Batch,
        features: Tensor,
        streaming: StreamingConfig,
        *,
        time_mask: Tensor | None = None,
        step: int | None = None,
        detached: bool = False,
    ) -> None:
        self._encode = encode
        self._passes: dict[StreamingConfig, EncoderPass] = {}
        self.batch = batch
        self.features = features
        self.streaming = streaming
        self.time_mask = time_mask
        self.step = step
        self._detached = detached
        self.transducer: TransducerBand | None = None
        self.decoder: DecoderOutput | None = None
        self.parts: dict[str, Tensor] = {}

    def with_streaming(self, streaming: StreamingConfig) -> LossContext:
        """A context of the same batch and passes whose losses are of another pass."""
        context = LossContext(
            self._encode,
            self.batch,
            self.features,
            streaming,
            time_mask=self.time_mask,
            step=self.step,
            detached=self._detached,
        )
        context._passes = self._passes
        return context

    @property
    def clean_features(self) -> Tensor:
        """(N, T, C): the batch's features without noise and masks."""
        if self.batch.clean is not None:
            return self.batch.clean
        if self.batch.noisy:
            raise ValueError("the loader mixed noise in and kept no clean features: keep_clean")
        return self.batch.features

    def encoded(self, streaming: StreamingConfig | None = None) -> EncoderPass:
        """The encoder's pass with these chunks, by default those of the step; computed when it is
        first asked for."""
        wanted = self.streaming if streaming is None else streaming
        if wanted not in self._passes:
            self._passes[wanted] = self._encode(self.features, wanted)
        return self._passes[wanted]

    def full_context(self) -> EncoderPass:
        """The encoder's pass with full context."""
        return self.encoded(FULL_CONTEXT)

    @property
    def encoder_out(self) -> Tensor:
        """(N, T, D) of the step's pass, see `EncoderPass.out`."""
        out = self.encoded().out
        return out.detach() if self._detached else out

    @property
    def lens(self) -> Tensor:
        """(N,) int64 valid encoder frames."""
        return self.encoded().lens

    @property
    def taps(self) -> Taps:
        """Of the step's pass."""
        return self.encoded().taps


class DistillationLoss(Protocol):
    """A loss between student and teacher: an `nn.Module` whose parameters are trained with
    the student and discarded afterwards."""

    taps: list[str]
    """Names of the encoder's tensors that it reads (see `ConformerEncoder.tap_names`)."""
    weight: float
    """Of its loss in the total."""
    final_weight_fraction: float
    """To which the weight falls, linearly over the training; 1: it stays."""
    validates: bool
    """Whether it can be computed on validation data too."""
    needs_hypotheses: bool
    """Whether it is of batches with hypotheses alone; False if it is missing."""
    parts: Sequence[str]
    """Names of what it leaves in `LossContext.parts`, for logs; none if it is missing."""

    def __call__(self, context: LossContext) -> Tensor:
        """(N,) float32 losses, summed over frames."""
        ...
