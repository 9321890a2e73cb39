"""Divergence between two transducers' distributions over the vocabulary, in cells of a lattice."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mvqkd.losses.band import Band
from mvqkd.losses.joint import ProjectingJoiner

# Logits that are worked on at once, of each side.
_CPU_CHUNK, _GPU_CHUNK = 2**20, 2**26
# Logarithm of a probability of zero, finite, as 0 times infinity is no number.
_LOG_ZERO = -1e4


class JoinerInput(NamedTuple):
    """What a transducer knows of a batch's lattices."""

    encoder: Tensor
    """(K, T, De)."""
    predictor: Tensor
    """(K, U + 1, Dp); position u has received the first u tokens."""
    joiner: ProjectingJoiner

    def projected(self) -> tuple[Tensor, Tensor]:
        """(K, T, J) and (K, U + 1, J)."""
        encoder, predictor = self.joiner.project_encoder, self.joiner.project_predictor
        return encoder(self.encoder), predictor(self.predictor)


def cell_divergence(
    student: JoinerInput,
    teacher: JoinerInput,
    tokens: Tensor,
    token_lens: Tensor,
    band: Band,
    *,
    delay: int = 0,
    collapsed: bool = False,
) -> Tensor:
    """KL(teacher || student) of the next symbol, summed over cells (t, u) of each lattice:

        L = sum_{t, u} sum_k P_t,u(k) log P_t,u(k) / Q_t,u(k)

    P_t,u is the teacher's distribution in its cell (t - delay, u), Q_t,u the student's in (t, u).

    The joiners are evaluated in chunks of cells, and again in the backward pass where there is more
    than one chunk, so that no tensor of all cells' logits is kept.

    Args:
        student: with gradient.
        teacher: of the same tokens and frame rate; none of it gets a gradient.
        tokens: (K, U) int64 between 0 and V - 1, in padding too.
        token_lens: (K,) valid tokens.
        band: cells of the student's lattices; those beyond a lattice's last token are left out.
        delay: frames by which the teacher is moved back: cells of the first ones have no target.
        collapsed: of the probabilities of the next token, of blank and of the rest together
            (Panchapagesan et al. 2020, arXiv 2011.06110, section 2.2), in place of all k. After
            the last token there are blank and the rest.

    Returns:
        (K,) losses in nats, float32 (float64 if the inputs are).

    Raises:
        ValueError: a negative delay, or lattices of other sizes.
    """
    if delay < 0:
        raise ValueError(f"delay={delay} must not be negative")
    sizes = [(len(x.encoder), x.encoder.shape[1], x.predictor.shape[1]) for x in (student, teacher)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"student and teacher must have lattices of the same (K, T, U + 1), not {sizes[0]} and "
            f"{sizes[1]}"
        )
    kept = (band.frames >= delay)[:, None] & (band.positions <= token_lens[band.utterances, None])
    rows, columns = kept.nonzero(as_tuple=True)
    utterances, frames, positions = (
        band.utterances[rows],
        band.frames[rows],
        band.positions[rows, columns],
    )
    has_next = positions < token_lens[utterances]
    # Any token where there is no next one.
    next_tokens = torch.nn.functional.pad(tokens, (0, 1))[utterances, positions]
    own = student.projected()
    with torch.no_grad():
        other = teacher.projected()
    num_positions = student.predictor.shape[1]

    def divergence(encoder: Tensor, predictor: Tensor, cells: slice) -> Tensor:
        u, t, p = utterances[cells], frames[cells], positions[cells]
        ends = (next_tokens[cells], has_next[cells]) if collapsed else None

        def log_probs(joiner: ProjectingJoiner, encoder: Tensor, predictor: Tensor, t: Tensor):
            by_frame = encoder.flatten(0, 1).index_select(0, u * encoder.shape[1] + t)
            by_token = predictor.flatten(0, 1).index_select(0, u * num_positions + p)
            logits = joiner(by_frame[:, None], by_token[:, None]).squeeze(1)
            return _log_distribution(logits, ends)

        with torch.no_grad():
            wanted = log_probs(teacher.joiner, *other, t - delay)
        found = log_probs(student.joiner, encoder, predictor, t)
        return (wanted.exp() * (wanted - found)).sum(1)

    vocab_size = _vocab_size(student, own)
    limit = _CPU_CHUNK if own[0].device.type == "cpu" else _GPU_CHUNK
    size = max(1, limit // vocab_size)
    chunks = [slice(first, first + size) for first in range(0, len(utterances), size)]
    parts = [
        divergence(*own, cells)
        if len(chunks) == 1
        else checkpoint(divergence, *own, cells, use_reentrant=False, preserve_rng_state=False)
        for cells in chunks
    ]
    dtype = torch.promote_types(student.encoder.dtype, torch.float32)
    losses = torch.zeros(len(token_lens), dtype=dtype, device=own[0].device)
    if not parts:  # a gradient of zero
        return losses + 0.0 * (own[0].sum() + own[1].sum()).to(dtype)
    return losses.index_add(0, utterances, torch.cat(parts).to(dtype))


def _vocab_size(student: JoinerInput, projected: tuple[Tensor, Tensor]) -> int:
    with torch.no_grad():
        encoder, predictor = (x.new_zeros(1, 1, x.shape[2]) for x in projected)
        return student.joiner(encoder, predictor).shape[-1]


def _log_distribution(logits: Tensor, ends: tuple[Tensor, Tensor] | None) -> Tensor:
    """(C, V) -> (C, V) log-probabilities; with the next tokens (C,) and whether there is one (C,),
    (C, 3) those of the next token, of blank and of the rest."""
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if ends is None:
            return logits.log_softmax(1)
        next_tokens, has_next = ends
        log_probs = logits.log_softmax(1)
        token = log_probs.gather(1, next_tokens[:, None]).squeeze(1)
        single = torch.zeros_like(log_probs, dtype=torch.bool)
        single.scatter_(1, next_tokens[:, None], has_next[:, None])
        single[:, 0] = True
        rest = log_probs.masked_fill(single, _LOG_ZERO).logsumexp(1)
        return torch.stack([token.where(has_next, _LOG_ZERO), log_probs[:, 0], rest], dim=1)
