"""What is minimized: the student, its losses, and whatever else learns with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvqkd.data.batch import Batch
from mvqkd.losses import PrunedTransducerLoss, ctc_loss
from mvqkd.models import Taps, Transducer
from mvqkd.training.schedule import loss_scales


@dataclass
class Losses:
    """Losses of a batch."""

    total: Tensor
    """Scalar float32 with gradient: the weighted sum of the parts, per encoder frame."""
    parts: dict[str, Tensor]
    """Scalars without gradient: each loss, unweighted, summed over the batch; nats. Those that the
    batch has nothing for are missing."""
    frames: Tensor
    """Scalar int64: encoder frames (25 Hz) of the batch, padding left out."""


class AuxiliaryLoss(Protocol):
    """A further loss on the student's inner life, such as a distillation loss: an `nn.Module` whose
    parameters learn with the student and stay behind when it leaves."""

    taps: Sequence[str]
    """Names of the encoder's tensors that it reads (see `ConformerEncoder.tap_names`)."""
    scale: float
    """Weight of its loss."""
    validates: bool
    """Whether it can be computed on validation data too."""

    def __call__(self, taps: Taps, lens: Tensor, batch: Batch, time_mask: Tensor | None) -> Tensor:
        """(N,) float32 losses, summed over frames.

        Args:
            taps: filled with the tensors that `taps` names.
            lens: (N,) valid frames at 25 Hz.
            batch: what the student heard.
            time_mask: (N, T) bool, True in 100 Hz frames that SpecAugment masked; None without
                augmentation.
        """
        ...


class Objective(nn.Module):
    """Student and losses: a batch in, losses out.

    Parameters of the student are under `student.`; all others serve training only.

    Args:
        student: has a CTC head if and only if `ctc_scale` is not 0.
        transducer_loss: of the student's encoder and predictor.
        simple_scale: weight of the simple loss after the warm-up, see `loss_scales`.
        warmup_steps: of that.
        ctc_scale: weight of the CTC loss.
        ctc_warmup_steps: steps at the beginning in which the encoder learns from CTC alone (an
            encoder trained by CTC first: Rao et al. 2017, arXiv 1801.00841, section 4), and the
            transducer's other parts learn beside it. On little data the transducer loss otherwise
            holds the encoder for long at "no sound matters": all it gets from it at first is noise.
        chunk_sizes: of a streaming student, in frames of 40 ms; -1: the whole utterance. None
            given: full context always.
        left_context: frames of 40 ms before its chunk that a frame attends to; -1: all.
        auxiliary: further losses by name, see `AuxiliaryLoss`.
    """

    def __init__(
        self,
        student: Transducer,
        transducer_loss: PrunedTransducerLoss,
        *,
        simple_scale: float = 0.5,
        warmup_steps: int = 1000,
        ctc_scale: float = 0.0,
        ctc_warmup_steps: int = 0,
        chunk_sizes: Sequence[int] = (),
        left_context: int = -1,
        auxiliary: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        if (student.ctc_head is None) != (ctc_scale == 0.0):
            raise ValueError("a CTC head goes with a ctc_scale that is not 0")
        if ctc_warmup_steps and student.ctc_head is None:
            raise ValueError("ctc_warmup_steps needs a CTC head")
        self.student = student
        self.transducer_loss = transducer_loss
        self.auxiliary = nn.ModuleDict(auxiliary or {})
        self.simple_scale = simple_scale
        self.warmup_steps = warmup_steps
        self.ctc_scale = ctc_scale
        self.ctc_warmup_steps = ctc_warmup_steps
        self.chunk_sizes = list(chunk_sizes) or [-1]
        self.left_context = left_context

    @property
    def part_names(self) -> list[str]:
        """Names of the losses in `Losses.parts`."""
        ctc = [] if self.student.ctc_head is None else ["ctc"]
        return ["simple", "pruned", *ctc, *self.auxiliary]

    @property
    def validation_chunk_size(self) -> int:
        """The first limited chunk size; -1 when there is none."""
        return next((size for size in self.chunk_sizes if size > 0), -1)

    def encode(
        self,
        features: Tensor,
        lens: Tensor,
        chunk_size: int = -1,
        taps: Taps | None = None,
        num_layers: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The student's encoder (see `ConformerEncoder.forward`), with -1 in place of None for an
        unlimited `chunk_size`."""
        return self.student.encoder(
            features,
            lens,
            chunk_size=chunk_size if chunk_size > 0 else None,
            left_context=self.left_context if self.left_context >= 0 else None,
            taps=taps,
            num_layers=num_layers,
        )

    def _auxiliary_losses(self) -> list[tuple[str, AuxiliaryLoss]]:
        """Those of the present mode: training or validation."""
        losses = [(name, cast(AuxiliaryLoss, loss)) for name, loss in self.auxiliary.items()]
        return [(name, loss) for name, loss in losses if self.training or loss.validates]

    def forward(
        self,
        batch: Batch,
        *,
        step: int | None = None,
        chunk_size: int = -1,
        time_mask: Tensor | None = None,
    ) -> Losses:
        """Losses of a batch, on the device of the parameters.

        Args:
            step: of the training, for the warm-up's weights; None: those after it, so that
                validation losses of different steps compare.
            chunk_size: in frames of 40 ms; -1: the whole utterance.
            time_mask: (N, T) bool, frames that SpecAugment masked, for auxiliary losses.
        """
        auxiliary = self._auxiliary_losses()
        names = [name for _, loss in auxiliary for name in loss.taps]
        taps = Taps(names) if names else None
        # Nothing above the highest tap learns from a batch without transcripts.
        depth = None if batch.labelled or taps is None else taps.num_layers
        encoder_out, lens = self.encode(batch.features, batch.feature_lens, chunk_size, taps, depth)
        weighted: dict[str, tuple[float, Tensor]] = {}
        if batch.labelled:
            weighted |= self._transcript_losses(batch, encoder_out, lens, step)
        for name, loss in auxiliary:
            weighted[name] = (loss.scale, loss(taps or Taps([]), lens, batch, time_mask))

        parts = {name: loss.float().sum() for name, (_, loss) in weighted.items()}
        frames = lens.sum()
        total = torch.stack([scale * parts[name] for name, (scale, _) in weighted.items()]).sum()
        if not batch.labelled:
            total = total + self._nothing_of_transcripts()
        return Losses(
            total=total / frames.clamp(min=1),
            parts={name: part.detach() for name, part in parts.items()},
            frames=frames,
        )

    def _transcript_losses(
        self, batch: Batch, encoder_out: Tensor, lens: Tensor, step: int | None
    ) -> dict[str, tuple[float, Tensor]]:
        """Name -> weight and (N,) losses."""
        student = self.student
        predictor_out = student.predictor(F.pad(batch.tokens, (1, 0), value=student.blank))
        ctc_only = step is not None and step <= self.ctc_warmup_steps
        heard = encoder_out.detach() if ctc_only else encoder_out
        transducer = self.transducer_loss(
            heard, predictor_out, student.joiner, batch.tokens, lens, batch.token_lens
        )
        simple_scale, pruned_scale = loss_scales(
            self.warmup_steps if step is None else step,
            warmup_steps=self.warmup_steps,
            simple_scale=self.simple_scale,
        )
        weighted = {
            "simple": (simple_scale, transducer.simple),
            "pruned": (pruned_scale, transducer.pruned),
        }
        if student.ctc_head is not None:
            logits = student.ctc_head(encoder_out)
            with torch.autocast(logits.device.type, enabled=False):
                ctc = ctc_loss(logits.float().log_softmax(-1), batch.tokens, lens, batch.token_lens)
            weighted["ctc"] = (self.ctc_scale, ctc)
        return weighted

    def _nothing_of_transcripts(self) -> Tensor:
        """Zero, with a gradient of zero for every parameter.

        Only transcripts teach the predictor, the joiner and the layers above the highest tap, but
        DistributedDataParallel waits for the gradient of every parameter; and so one process and
        several do the same.

        The optimizer's momentum and weight decay go on in such steps. Having it pass over these
        parameters (17b0097) was worse in egs/mini.
        """
        return torch.stack([0.0 * parameter.sum() for parameter in self.parameters()]).sum()
