"""Pruned transducer loss (Kuang et al. 2022, arXiv 2206.13236)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mvqkd.losses.band import Band, make_band
from mvqkd.losses.checks import check_lens, check_tokens
from mvqkd.losses.joint import ProjectingJoiner, band_log_probs
from mvqkd.losses.lattice import Backend, Topology, lattice_log_likelihood
from mvqkd.losses.pruning import pruning_starts, sufficient_range
from mvqkd.losses.simple import simple_log_probs


class TransducerLosses(NamedTuple):
    """Negative log-likelihoods of each utterance, summed over its frames, in nats."""

    simple: Tensor
    """(N,) of the simple, additive joiner, which finds the pruning windows."""
    pruned: Tensor
    """(N,) of the model's joiner, over the paths within the windows."""


class PrunedTransducerLoss(nn.Module):
    """Transducer loss that evaluates the joiner on a few token positions of each frame only.

    A simple joiner, the sum of two linear projections to the vocabulary, gives for each frame the
    ``prune_range`` positions that paths most probably go through; the model's joiner is evaluated
    only there. Train on a weighted sum of both losses. The projections are parameters of this
    module, and useless after training.

    Args:
        encoder_dim: width De of the encoder's output.
        predictor_dim: width Dp of the predictor's output.
        vocab_size: V, with blank (0).
        prune_range: S, token positions kept per frame. Widened for a batch with utterances of so
            many tokens in so few frames that no path could be kept.
        lm_scale: weight of the predictor alone in smoothing the simple joiner.
        am_scale: weight of the encoder alone. Above 0 the losses of an utterance depend slightly
            on the others of its batch.
        topology: ``"regular"``, or ``"modified"``: at most one token per frame.
        backend: see :func:`mvqkd.losses.lattice.lattice_log_likelihood`.
    """

    def __init__(
        self,
        *,
        encoder_dim: int,
        predictor_dim: int,
        vocab_size: int,
        prune_range: int = 5,
        lm_scale: float = 0.25,
        am_scale: float = 0.0,
        topology: Topology = "regular",
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        if prune_range < 2:
            raise ValueError(f"prune_range must be at least 2, not {prune_range}")
        if lm_scale < 0 or am_scale < 0 or lm_scale + am_scale > 1:
            raise ValueError(
                f"lm_scale and am_scale are weights of a mean, not {lm_scale} and {am_scale}"
            )
        self.project_encoder = nn.Linear(encoder_dim, vocab_size)
        self.project_predictor = nn.Linear(predictor_dim, vocab_size)
        self.vocab_size = vocab_size
        self.prune_range = prune_range
        self.lm_scale = lm_scale
        self.am_scale = am_scale
        self.topology = topology
        self.backend = backend

    def forward(
        self,
        encoder_out: Tensor,
        predictor_out: Tensor,
        joiner: ProjectingJoiner | Callable[[Tensor, Tensor], Tensor],
        tokens: Tensor,
        lens: Tensor,
        token_lens: Tensor,
        *,
        delay_penalty: float = 0.0,
    ) -> TransducerLosses:
        """Both losses of a batch: :meth:`choose_band`, then :meth:`score`.

        Args:
            encoder_out: (N, T, De).
            predictor_out: (N, U + 1, Dp); position u has seen the first u tokens.
            joiner: see :meth:`score`.
            tokens: (N, U) int64 without blanks; padding may hold anything.
            lens: (N,) valid frames of ``encoder_out``.
            token_lens: (N,) valid tokens.
            delay_penalty: positive values make the model emit earlier (Kang et al. 2022, arXiv
                2211.00490): the gradient is that of a loss in which the log-probability of each
                token has this added for each frame that it is earlier than the middle of the
                utterance, and subtracted for each frame that it is later. The value of the loss
                stays the negative log-likelihood.

        Returns:
            Both losses, float32 (float64 if the inputs are); +inf, with a gradient of zero, where
            there is no path: tokens but no frames, or, with topology ``"modified"``, more tokens
            than frames.

        Raises:
            ValueError: for shapes and lengths that do not fit together, and valid tokens that are
                blank or not in the vocabulary.
        """
        text = (tokens, lens, token_lens)
        simple, band = self.choose_band(
            encoder_out, predictor_out, *text, delay_penalty=delay_penalty
        )
        pruned = self.score(
            band, encoder_out, predictor_out, joiner, *text, delay_penalty=delay_penalty
        )
        return TransducerLosses(simple, pruned)

    def choose_band(
        self,
        encoder_out: Tensor,
        predictor_out: Tensor,
        tokens: Tensor,
        lens: Tensor,
        token_lens: Tensor,
        *,
        delay_penalty: float = 0.0,
    ) -> tuple[Tensor, Band]:
        """The cells that most probability goes through, according to the simple joiner.

        Args:
            encoder_out, predictor_out, tokens, lens, token_lens, delay_penalty: see
                :meth:`forward`.

        Returns:
            (N,) loss of the simple joiner, and the band.

        Raises:
            ValueError: for shapes and lengths that do not fit together, and valid tokens that are
                blank or not in the vocabulary.
        """
        self._check(encoder_out, predictor_out, tokens, lens, token_lens)
        lens, token_lens = lens.to(tokens.device), token_lens.to(tokens.device)
        check_tokens(tokens, token_lens, self.vocab_size)
        tokens = blank_padding(tokens, token_lens)
        am, lm = self.project_encoder(encoder_out), self.project_predictor(predictor_out)
        with torch.autocast(am.device.type, enabled=False):
            symbol, blank = simple_log_probs(
                _at_least_float32(am),
                _at_least_float32(lm),
                tokens,
                lens,
                token_lens,
                lm_scale=self.lm_scale,
                am_scale=self.am_scale,
            )
        simple, symbol_occupancy, blank_occupancy = self._sum_paths(
            symbol, blank, lens, token_lens, delay_penalty
        )
        prune_range = sufficient_range(
            self.prune_range, lens, token_lens, predictor_out.shape[1], self.topology
        )
        starts = pruning_starts(
            symbol_occupancy,
            blank_occupancy,
            lens,
            token_lens,
            prune_range=prune_range,
            topology=self.topology,
        )
        return -simple, make_band(starts, lens, prune_range)

    def score(
        self,
        band: Band,
        encoder_out: Tensor,
        predictor_out: Tensor,
        joiner: ProjectingJoiner | Callable[[Tensor, Tensor], Tensor],
        tokens: Tensor,
        lens: Tensor,
        token_lens: Tensor,
        *,
        delay_penalty: float = 0.0,
    ) -> Tensor:
        """The loss of the model's joiner over the paths within a band.

        Args:
            band: of :meth:`choose_band`.
            encoder_out, predictor_out, tokens, lens, token_lens, delay_penalty: see
                :meth:`forward`.
            joiner: a :class:`mvqkd.losses.joint.ProjectingJoiner`, such as
                :class:`mvqkd.models.Joiner`; or anything that maps (R, S, De) and (R, S, Dp) to
                logits (R, S, V), for R frames and their S positions.

        Returns:
            (N,), see :meth:`forward`.

        Raises:
            ValueError: for shapes and lengths that do not fit together.
        """
        self._check(encoder_out, predictor_out, tokens, lens, token_lens)
        lens, token_lens = lens.to(tokens.device), token_lens.to(tokens.device)
        tokens = blank_padding(tokens, token_lens)
        symbol, blank = band_log_probs(encoder_out, predictor_out, joiner, tokens, band)
        return -self._sum_paths(symbol, blank, lens, token_lens, delay_penalty)[0]

    def _sum_paths(
        self,
        symbol: Tensor,
        blank: Tensor,
        lens: Tensor,
        token_lens: Tensor,
        delay_penalty: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        def sum_paths(symbol: Tensor, blank: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return lattice_log_likelihood(
                symbol, blank, lens, token_lens, topology=self.topology, backend=self.backend
            )

        if not delay_penalty:
            return sum_paths(symbol, blank)
        frames = torch.arange(symbol.shape[1], device=symbol.device)
        earliness = (lens[:, None] - 1) / 2 - frames
        penalized, *occupancies = sum_paths(symbol + delay_penalty * earliness[:, :, None], blank)
        scores = sum_paths(symbol.detach(), blank.detach())[0]
        # The value of the likelihood with the gradient of the penalized one.
        with_gradient = scores + (penalized - penalized.detach())
        return with_gradient.where(scores.isfinite(), scores), occupancies[0], occupancies[1]

    def _check(
        self,
        encoder_out: Tensor,
        predictor_out: Tensor,
        tokens: Tensor,
        lens: Tensor,
        token_lens: Tensor,
    ) -> None:
        batch_size, num_frames = encoder_out.shape[:2]
        if tokens.shape[0] != batch_size or predictor_out.shape[:2] != (
            batch_size,
            tokens.shape[1] + 1,
        ):
            raise ValueError(
                "encoder_out must be (N, T, De), predictor_out (N, U + 1, Dp) and tokens (N, U), "
                f"not {tuple(encoder_out.shape)}, {tuple(predictor_out.shape)} and "
                f"{tuple(tokens.shape)}"
            )
        check_lens("lens", lens, batch_size, num_frames)
        check_lens("token_lens", token_lens, batch_size, tokens.shape[1])


def blank_padding(tokens: Tensor, token_lens: Tensor) -> Tensor:
    """(N, U) tokens with 0 in the padding."""
    positions = torch.arange(tokens.shape[1], device=tokens.device)
    return tokens.masked_fill(positions >= token_lens[:, None], 0)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
