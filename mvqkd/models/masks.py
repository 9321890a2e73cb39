"""Boolean masks; True is a frame that counts, or a key that a query attends to."""

from __future__ import annotations

import torch
from torch import Tensor


def valid_frames(lens: Tensor, num_frames: int) -> Tensor:
    """(N,) lengths in frames -> (N, num_frames), True before each length."""
    return torch.arange(num_frames, device=lens.device) < lens.unsqueeze(1)


def chunk_mask(
    num_frames: int, chunk_size: int, left_context: int | None, device: torch.device
) -> Tensor:
    """(T, T): a query of chunk c sees the keys of [c * chunk - left, (c + 1) * chunk).

    Args:
        chunk_size: frames of a chunk.
        left_context: frames before the chunk that are seen; None for all.
    """
    key = torch.arange(num_frames, device=device)
    start = (key // chunk_size * chunk_size).unsqueeze(1)
    mask = key < start + chunk_size
    return mask if left_context is None else mask & (key >= start - left_context)


def attention_mask(valid: Tensor, chunk_size: int | None, left_context: int | None) -> Tensor:
    """Mask of a whole batch, (N, 1, T, T) or, without chunks, (N, 1, 1, T).

    A row always has a True: a padded query whose window holds no valid key sees itself, so that
    its softmax is finite; an utterance without frames sees its whole padding.

    Args:
        valid: (N, T), True at the frames of each utterance.
    """
    if chunk_size is None:
        return (valid | ~valid.any(1, keepdim=True))[:, None, None]
    num_frames = valid.size(1)
    window = chunk_mask(num_frames, chunk_size, left_context, valid.device)
    itself = torch.eye(num_frames, dtype=torch.bool, device=valid.device)
    return ((window & valid[:, None]) | itself)[:, None]


def streaming_mask(processed: Tensor, left_context: int, valid: Tensor) -> Tensor:
    """Mask of one chunk's queries over cache and chunk, (N, 1, T, left_context + T).

    Args:
        processed: (N,) output frames before this chunk: the last `processed` frames of the cache
            are real, those before them are the zeros it began with.
        valid: (N, T), True at the chunk's frames that are not padding.
    """
    age = torch.arange(left_context, 0, -1, device=valid.device)
    cached = age <= processed.unsqueeze(1)
    keys = torch.cat([cached, valid], dim=1)
    chunk = valid.size(1)
    itself = torch.eye(chunk, dtype=torch.bool, device=valid.device)
    itself = torch.nn.functional.pad(itself, (left_context, 0))
    return (keys[:, None] | itself)[:, None]
