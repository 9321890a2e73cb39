"""Distillation of the probabilities of tokens: a transducer of our own with full context as teacher
of a streaming one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvqkd.distillation.context import LossContext, TransducerBand
from mvqkd.distillation.encoder_teacher import teacher_taps
from mvqkd.losses.band import Band
from mvqkd.losses.best_path import best_path, lattice_log_probs, path_band
from mvqkd.losses.cell_divergence import JoinerInput, cell_divergence
from mvqkd.models import ConformerEncoder, TransducerHead


class OutputTeacher:
    """A frozen transducer, evaluated on the features without noise and masks, with full context.

    No module: it has no part in what is trained, saved or synchronized.

    Args:
        encoder: trained, on the training device; it is frozen here.
        head: its transducer, of the student's tokens; likewise.
    """

    def __init__(self, encoder: ConformerEncoder, head: TransducerHead) -> None:
        self.encoder = encoder.eval().requires_grad_(False)
        self.head = head.eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, context: LossContext, tokens: Tensor) -> JoinerInput:
        """Of the lattices of the batch's hypotheses.

        Args:
            context: of a batch with hypotheses.
            tokens: (K, U) int64, 0 in padding.
        """
        hypotheses = context.batch.hypotheses
        assert hypotheses is not None
        encoder_out = teacher_taps(self.encoder, context, ["output"])["output"]
        predictor_out = self.head.predictor(F.pad(tokens, (1, 0), value=self.head.blank))
        return JoinerInput(hypotheses.of_owners(encoder_out), predictor_out, self.head.joiner)


class OutputDistillation(nn.Module):
    """Divergence of the student's distributions over the tokens from the teacher's, in cells of the
    transducer's lattice: a `DistillationLoss` of batches with hypotheses.

    The cells are those of the student's pruned band, or those of the teacher's most probable path
    through the whole lattice (Yang et al. 2021, arXiv 2110.03334). The student of a frame imitates
    the teacher `delay` frames before it: a streaming student emits later.

    Args:
        teacher: with the student's tokens and frame rate.
        weight: of the loss in the total.
        final_weight_fraction: what is left of the weight at the end of the training.
        best_path: the cells are those of the teacher's best path.
        collapsed: the distributions are over the next token, blank and the rest.
        delay: frames of 40 ms.
    """

    validates = True
    needs_hypotheses = True

    def __init__(
        self,
        teacher: OutputTeacher,
        *,
        weight: float,
        final_weight_fraction: float = 1.0,
        best_path: bool = False,
        collapsed: bool = False,
        delay: int = 0,
    ) -> None:
        super().__init__()
        self.taps = ["output"]
        self.teacher = teacher
        self.weight = weight
        self.final_weight_fraction = final_weight_fraction
        self.best_path = best_path
        self.collapsed = collapsed
        self.delay = delay

    def forward(self, context: LossContext) -> Tensor:
        """(N,) float32 losses, summed over cells."""
        found, hypotheses = context.transducer, context.batch.hypotheses
        assert found is not None and hypotheses is not None
        # The tap, and not what the head received: recognition may leave the encoder alone at first.
        encoder_out = hypotheses.of_owners(context.taps["output"])
        student = JoinerInput(encoder_out, found.predictor_out, found.joiner)
        teacher = self.teacher(context, found.tokens)
        lens = hypotheses.of_owners(context.lens)
        losses = cell_divergence(
            student,
            teacher,
            found.tokens,
            hypotheses.lens,
            self._cells(found, teacher, lens, hypotheses.lens),
            delay=self.delay,
            collapsed=self.collapsed,
        )
        return of_utterances(losses, context)

    def _cells(
        self, found: TransducerBand, teacher: JoinerInput, lens: Tensor, token_lens: Tensor
    ) -> Band:
        if not self.best_path:
            return found.band
        symbol, blank = lattice_log_probs(teacher, found.tokens)
        frames = best_path(symbol, blank, lens, token_lens)
        return path_band(frames, lens, token_lens, delay=self.delay)


def of_utterances(losses: Tensor, context: LossContext) -> Tensor:
    """(K,) losses of hypotheses -> (N,) of their utterances, with the weights of the hypotheses."""
    hypotheses = context.batch.hypotheses
    assert hypotheses is not None
    weighted = losses * hypotheses.weights
    return losses.new_zeros(len(context.batch)).index_add(0, hypotheses.owners, weighted)
