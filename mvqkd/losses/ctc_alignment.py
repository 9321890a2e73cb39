"""Forced alignment with a CTC head."""

from __future__ import annotations

import torch
from torch import Tensor

_LOG_ZERO = -1e30


@torch.no_grad()
def ctc_alignment(log_probs: Tensor, tokens: Tensor, lens: Tensor, token_lens: Tensor) -> Tensor:
    """The first frame of each token on the most probable path of a transcript (Viterbi).

    Args:
        log_probs: (N, T, V) log-probabilities, blank at 0.
        tokens: (N, U) int64 between 0 and V - 1, in padding too.
        lens: (N,) valid frames.
        token_lens: (N,) valid tokens.

    Returns:
        (N, U) int64 frames; -1 in padding, and of utterances with too few frames for a path.
    """
    num_utterances, num_frames, _ = log_probs.shape
    num_tokens = tokens.shape[1]
    # States are blank, token 1, blank, token 2, ..., blank.
    labels = tokens.new_zeros(num_utterances, 2 * num_tokens + 1)
    labels[:, 1::2] = tokens
    skips = torch.zeros_like(labels, dtype=torch.bool)  # from the token before, over the blank
    skips[:, 3::2] = tokens[:, 1:] != tokens[:, :-1]
    emitted = log_probs.double().gather(2, labels[:, None].expand(-1, num_frames, -1))
    scores = torch.full_like(emitted[:, 0], _LOG_ZERO) if num_frames else emitted.new_zeros(0)
    steps: list[Tensor] = []
    finals: list[Tensor] = []
    for t in range(num_frames):
        if t == 0:
            scores[:, :2] = emitted[:, 0, :2]
            steps.append(torch.zeros_like(labels))
        else:
            by_one = torch.nn.functional.pad(scores, (1, 0), value=_LOG_ZERO)[:, :-1]
            by_two = torch.nn.functional.pad(scores, (2, 0), value=_LOG_ZERO)[:, :-2]
            ways = torch.stack([scores, by_one, by_two.masked_fill(~skips, _LOG_ZERO)])
            scores, step = ways.max(0)
            scores = scores + emitted[:, t]
            steps.append(step)
        finals.append(scores)
    frames = torch.full_like(tokens, -1)
    if not num_frames:
        return frames
    rows = torch.arange(num_utterances, device=tokens.device)
    last = torch.stack(finals)[(lens - 1).clamp(min=0), rows]
    # A path ends in the last token or in the blank behind it.
    ends = torch.stack([2 * token_lens, (2 * token_lens - 1).clamp(min=0)])
    best, which = last[rows, ends].max(0)
    possible = (lens > 0) & (best > _LOG_ZERO / 2)
    state = ends[which, rows]
    for t in reversed(range(num_frames)):
        inside = possible & (t < lens)
        at_token = inside & (state % 2 == 1)
        frames[rows[at_token], state[at_token] // 2] = t
        state = torch.where(inside, state - steps[t][rows, state], state)
    return frames
