"""What is minimized: the losses of a model's heads, and of distillation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from mvqkd.data.loading.batch import Batch
from mvqkd.distillation.context import DistillationLoss, EncoderPass, LossContext
from mvqkd.models import FULL_CONTEXT, AsrModel, StreamingConfig, Taps
from mvqkd.training.heads.protocol import HeadLoss


@dataclass
class Losses:
    """Losses of a batch."""

    total: Tensor
    """Scalar float32 with gradient: the weighted sum of the components, per encoder frame."""
    components: dict[str, Tensor]
    """Scalars without gradient: each loss, unweighted, summed over the batch; nats. Those that the
    batch has nothing for are missing."""
    frames: Tensor
    """Scalar int64: encoder frames (25 Hz) of the batch, excluding padding."""


class Objective(nn.Module):
    """Model and losses: a batch in, losses out.

    Parameters of the model are under `model.`; all others serve training only.

    Args:
        model: encoder and heads.
        head_losses: the losses of each head, by its name in `AsrModel.heads`; computed in this
            order, before those of distillation.
        distillation: further losses by name.
        chunk_sizes: of a streaming student, in frames of 40 ms; -1: the whole utterance. None
            given: full context always.
        left_context: frames of 40 ms before its chunk that a frame attends to; -1: all.

    Raises:
        ValueError: losses of a head that the model has not, or a head without losses.
    """

    def __init__(
        self,
        model: AsrModel,
        head_losses: Mapping[str, nn.Module],
        *,
        distillation: Mapping[str, nn.Module] | None = None,
        chunk_sizes: Sequence[int] = (),
        left_context: int = -1,
    ) -> None:
        super().__init__()
        if set(head_losses) != set(model.heads):
            raise ValueError(
                f"the model has the heads {sorted(model.heads)}, but there are losses of "
                f"{sorted(head_losses)}"
            )
        self.model = model
        self.head_losses = nn.ModuleDict(head_losses)
        self.distillation = nn.ModuleDict(distillation or {})
        self.chunk_sizes = list(chunk_sizes) or [-1]
        self.left_context = left_context

    @property
    def components(self) -> list[str]:
        """Names of the losses in `Losses.components`."""
        names = [name for _, loss in self._heads() for name in loss.components]
        return [*names, *self.distillation]

    @property
    def validation_chunk_size(self) -> int:
        """The first limited chunk size; -1 when there is none."""
        return next((size for size in self.chunk_sizes if size > 0), -1)

    def streaming(self, chunk_size: int) -> StreamingConfig:
        """The encoder's chunks of this size (-1: the whole utterance), with the left context of
        this training."""
        if chunk_size <= 0:
            return FULL_CONTEXT
        return StreamingConfig(chunk_size, self.left_context if self.left_context >= 0 else None)

    def _heads(self) -> list[tuple[str, HeadLoss]]:
        return [(name, cast(HeadLoss, loss)) for name, loss in self.head_losses.items()]

    def _distillation(self) -> list[tuple[str, DistillationLoss]]:
        """Those of the present mode: training or validation."""
        losses = [(name, cast(DistillationLoss, loss)) for name, loss in self.distillation.items()]
        return [(name, loss) for name, loss in losses if self.training or loss.validates]

    def forward(
        self,
        batch: Batch,
        *,
        features: Tensor | None = None,
        time_mask: Tensor | None = None,
        step: int | None = None,
        chunk_size: int = -1,
    ) -> Losses:
        """Losses of a batch, on the device of the parameters.

        Args:
            features: (N, T, C), what the student receives; None: the batch's features as they are.
            time_mask: (N, T) bool, frames of them that SpecAugment masked.
            step: of the training, for warm-ups; None: weights after them, so that validation losses
                of different steps compare.
            chunk_size: in frames of 40 ms; -1: the whole utterance.
        """
        distillation = self._distillation()
        names = {name for _, loss in distillation for name in loss.taps}
        has_text = batch.hypotheses is not None

        def encode(features: Tensor, streaming: StreamingConfig) -> EncoderPass:
            taps = Taps(names)
            # A batch without hypotheses has no loss above the highest tap.
            out, lens = self.model.encoder(
                features,
                batch.feature_lens,
                chunk_size=streaming.chunk_size,
                left_context=streaming.left_context,
                taps=taps,
                num_layers=None if has_text or not names else taps.num_layers,
            )
            return EncoderPass(out, lens, taps)

        context = LossContext(
            encode,
            batch,
            batch.features if features is None else features,
            self.streaming(chunk_size),
            time_mask=time_mask,
            step=step,
        )
        frames = context.lens.sum()
        weighted: dict[str, tuple[float, Tensor]] = {}
        if batch.hypotheses is not None:
            for name, head_loss in self._heads():
                for component, (weight, losses) in head_loss(
                    self.model.heads[name], context
                ).items():
                    total = (losses.float() * batch.hypotheses.weights).sum()
                    weighted[component] = (weight, total)
        for name, loss in distillation:
            weighted[name] = (loss.weight, loss(context).float().sum())

        total = torch.stack([weight * sum_ for weight, sum_ in weighted.values()]).sum()
        if not has_text:
            total = total + self._nothing_of_transcripts()
        return Losses(
            total=total / frames.clamp(min=1),
            components={name: sum_.detach() for name, (_, sum_) in weighted.items()},
            frames=frames,
        )

    def _nothing_of_transcripts(self) -> Tensor:
        """Zero, with a gradient of zero for every parameter.

        Only transcripts train the heads and the layers above the highest tap, but
        DistributedDataParallel waits for the gradient of every parameter; and so one process and
        several do the same.

        The optimizer's momentum and weight decay go on in such steps. Having it pass over these
        parameters (17b0097) was worse in egs/mini.
        """
        return torch.stack([0.0 * parameter.sum() for parameter in self.parameters()]).sum()
