"""The most probable path through a transducer's lattice."""

from __future__ import annotations

import torch
from torch import Tensor

from mvqkd.losses.band import Band
from mvqkd.losses.cell_divergence import JoinerInput

# Cells whose logits are worked on at once, times V.
_CPU_CHUNK, _GPU_CHUNK = 2**20, 2**26


@torch.no_grad()
def lattice_log_probs(inputs: JoinerInput, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the next token and of blank in every cell, without gradient.

    Args:
        inputs: of a transducer.
        tokens: (K, U) int64 between 0 and V - 1, in padding too.

    Returns:
        symbol (K, T, U) and blank (K, T, U + 1), float32 (float64 if the inputs are).
    """
    encoder, predictor = inputs.projected()
    symbols, blanks = [], []
    for frames, positions, following in zip(encoder, predictor, tokens, strict=True):
        logits = inputs.joiner(frames[:1, None], positions[None])
        limit = _CPU_CHUNK if logits.device.type == "cpu" else _GPU_CHUNK
        size = max(1, limit // logits.numel())
        parts = []
        for some in frames.split(size):
            logits = inputs.joiner(some[:, None], positions[None])
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            log_probs = logits.log_softmax(2)
            index = following[None, :, None].expand(len(some), -1, 1)
            parts.append((log_probs[:, :-1].gather(2, index).squeeze(2), log_probs[..., 0]))
        symbols.append(torch.cat([symbol for symbol, _ in parts]))
        blanks.append(torch.cat([blank for _, blank in parts]))
    return torch.stack(symbols), torch.stack(blanks)


@torch.no_grad()
def best_path(symbol: Tensor, blank: Tensor, lens: Tensor, token_lens: Tensor) -> Tensor:
    """The frame in which the most probable path emits each token (Viterbi), in the regular
    topology: any number of tokens in a frame, and a blank at its end.

    Args:
        symbol: (N, T, U) log-probability of the next token in frame t when u are emitted; finite.
        blank: (N, T, U + 1), likewise.
        lens: (N,) valid frames, at least 1 where there are tokens.
        token_lens: (N,) valid tokens.

    Returns:
        (N, U) int64 frames; the number of valid frames in padding.
    """
    num_utterances, num_frames, num_tokens = symbol.shape
    symbol, blank = symbol.double(), blank.double()
    # Score of emitting the first u tokens in one frame. What a path emits between the position
    # where it enters a frame and the one where it leaves is a difference of two of these.
    emitted = torch.nn.functional.pad(symbol.cumsum(2), (1, 0))
    entered = symbol.new_full((num_utterances, num_tokens + 1), -torch.inf)
    entered[:, 0] = 0.0
    origins = []
    for t in range(num_frames):
        best, origin = (entered - emitted[:, t]).cummax(1)
        origins.append(origin)
        entered = best + emitted[:, t] + blank[:, t]
    frames = lens[:, None].expand(-1, num_tokens).clone()
    tokens = torch.arange(num_tokens, device=symbol.device)
    position = token_lens[:, None]
    for t in reversed(range(num_frames)):
        inside = (t < lens)[:, None]
        before = torch.where(inside, origins[t].gather(1, position), position)
        frames[(tokens >= before) & (tokens < position)] = t
        position = before
    return frames


def path_band(frames: Tensor, lens: Tensor, token_lens: Tensor, *, delay: int = 0) -> Band:
    """The cells of paths, one position in each row: T + U cells for each utterance.

    Args:
        frames: (N, U) of each token, as `best_path` returns them.
        lens: (N,) valid frames.
        token_lens: (N,) valid tokens.
        delay: frames that are added to those of the cells; what is then beyond the end is left out.
    """
    num_frames = int(lens.max()) if len(lens) else 0
    time = torch.arange(num_frames, device=frames.device)
    valid = torch.arange(frames.shape[1], device=frames.device) < token_lens[:, None]
    # A token leaves the cell with the tokens before it, a blank the one with all of its frame too.
    utterance, token = valid.nonzero(as_tuple=True)
    owner, frame = (time < lens[:, None]).nonzero(as_tuple=True)
    so_far = ((frames[:, None] <= time[:, None]) & valid[:, None]).sum(2)
    utterances = torch.cat([utterance, owner])
    moments = torch.cat([frames[utterance, token], frame]) + delay
    positions = torch.cat([token, so_far[owner, frame]])
    kept = moments < lens[utterances]
    return Band(utterances[kept], moments[kept], positions[kept, None])
