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

_FULL_CONTEXT = "_full_context"
"""Ends the names of the losses of a second pass."""


@dataclass
class Losses:
    """Losses of a batch."""

    recognition: Tensor
    """Scalar float32 with gradient: the weighted sum of the losses of heads."""
    distillation: Tensor
    """Scalar float32 with gradient: the weighted sum of the losses of distillation."""
    components: dict[str, Tensor]
    """Scalars without gradient: each loss, unweighted, summed over the batch; nats. Those that the
    batch has nothing for are missing."""
    frames: Tensor
    """Scalar int64: encoder frames (25 Hz) of the batch, excluding padding."""
    labelled_frames: Tensor
    """Scalar int64: those of the utterances that have hypotheses."""

    def total(self, labelled_frames: float | None = None, frames: float | None = None) -> Tensor:
        """What is minimized: recognition losses per labelled frame plus distillation losses per
        frame (the two denominators of arXiv 2308.16415, section 3).

        Args:
            labelled_frames, frames: of the step that the batch is part of; None: of the batch.
        """
        if labelled_frames is None:
            labelled_frames = float(self.labelled_frames)
        if frames is None:
            frames = float(self.frames)
        recognition = self.recognition / max(1.0, labelled_frames)
        return recognition + self.distillation / max(1.0, frames)


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
        distillation_steps: initial steps in which distillation alone trains the encoder.
        full_context_weight: of the losses of heads on a second pass with full context, beside a
            pass with chunks; 0: there is none.

    Raises:
        ValueError: losses of a head that the model does not have, or a head without losses.
    """

    def __init__(
        self,
        model: AsrModel,
        head_losses: Mapping[str, nn.Module],
        *,
        distillation: Mapping[str, nn.Module] | None = None,
        chunk_sizes: Sequence[int] = (),
        left_context: int = -1,
        distillation_steps: int = 0,
        full_context_weight: float = 0.0,
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
        self.distillation_steps = distillation_steps
        self.full_context_weight = full_context_weight

    @property
    def components(self) -> list[str]:
        """Names of the losses in `Losses.components`."""
        names = [name for _, loss in self._heads() for name in loss.components]
        if self.full_context_weight:
            losses = [name for name in names if not name.startswith("num_")]
            names += [f"{name}{_FULL_CONTEXT}" for name in losses]
        for name, loss in self.distillation.items():
            names += [name, *(f"{name}.{part}" for part in getattr(loss, "parts", ()))]
        return names

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

    def _distillation(self, has_text: bool) -> list[tuple[str, DistillationLoss]]:
        """Those of the present mode, training or validation, and of such a batch."""
        losses = [(name, cast(DistillationLoss, loss)) for name, loss in self.distillation.items()]
        return [
            (name, loss)
            for name, loss in losses
            if (self.training or loss.validates)
            and (has_text or not getattr(loss, "needs_hypotheses", False))
        ]

    def forward(
        self,
        batch: Batch | None,
        *,
        features: Tensor | None = None,
        time_mask: Tensor | None = None,
        step: int | None = None,
        progress: float = 0.0,
        chunk_size: int = -1,
    ) -> Losses:
        """Losses of a batch, on the device of the parameters.

        Args:
            batch: None: losses of nothing, with gradients of zero, for a process that has no part
                of a step.
            features: (N, T, C), what the student receives; None: the batch's features as they are.
            time_mask: (N, T) bool, frames of them that SpecAugment masked.
            step: of the training, for warm-ups; None: weights after them, so that validation losses
                of different steps compare.
            progress: fraction of the training that is done, for weights that fall.
            chunk_size: in frames of 40 ms; -1: the whole utterance.
        """
        if batch is None:
            nothing = self._nothing()
            no_frames = torch.zeros((), dtype=torch.int64, device=nothing.device)
            return Losses(nothing, nothing, {}, no_frames, no_frames)
        has_text = batch.hypotheses is not None
        distillation = self._distillation(has_text)
        names = {name for _, loss in distillation for name in loss.taps}

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
            detached=step is not None and step <= self.distillation_steps,
        )
        frames = context.lens.sum()
        components: dict[str, Tensor] = {}
        recognition = distilled = context.features.new_zeros((), dtype=torch.float32)
        if batch.hypotheses is not None:
            passes = [("", 1.0, context)]
            if self.full_context_weight and context.streaming != FULL_CONTEXT:
                second = context.with_streaming(FULL_CONTEXT)
                passes.append((_FULL_CONTEXT, self.full_context_weight, second))
            for suffix, share, of_pass in passes:
                for name, head_loss in self._heads():
                    found = head_loss(self.model.heads[name], of_pass)
                    for component, (weight, losses) in found.items():
                        if suffix and component.startswith("num_"):
                            continue
                        loss = (losses.float() * batch.hypotheses.weights).sum()
                        recognition = recognition + share * weight * loss
                        components[f"{component}{suffix}"] = loss.detach()
        for name, distillation_loss in distillation:
            context.parts = {}
            loss = distillation_loss(context).float().sum()
            fallen = 1.0 - progress * (1.0 - distillation_loss.final_weight_fraction)
            distilled = distilled + distillation_loss.weight * fallen * loss
            components[name] = loss.detach()
            for part, losses in context.parts.items():
                components[f"{name}.{part}"] = losses.detach().float().sum()
        if not has_text:
            distilled = distilled + self._nothing()
        return Losses(
            recognition=recognition,
            distillation=distilled,
            components=components,
            frames=frames,
            labelled_frames=batch.labelled_frames(context.lens),
        )

    def _nothing(self) -> Tensor:
        """Zero, with a gradient of zero for every parameter.

        Only transcripts train the heads and the layers above the highest tap, but
        DistributedDataParallel waits for the gradient of every parameter.
        """
        return torch.stack([0.0 * parameter.sum() for parameter in self.parameters()]).sum()
