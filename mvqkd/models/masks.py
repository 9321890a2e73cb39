"""Which frames count, and which keys a query attends to."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def valid_frames(lens: Tensor, num_frames: int) -> Tensor:
    """(N,) lengths in frames -> (N, num_frames) bool, True before each length."""
    return torch.arange(num_frames, device=lens.device) < lens.unsqueeze(1)


class Block(NamedTuple):
    """Consecutive queries and the keys that any of them attends to.

    Attention over blocks touches only the keys inside of the window, and scores of one block at a
    time stay in a CPU's cache.
    """

    queries: tuple[int, int]
    """First query, and the one after the last."""
    keys: tuple[int, int]
    """First key, and the one after the last."""
    bias: Tensor
    """Added to the scores: 0 for keys that are attended to, else -inf. (N, 1 or queries, keys);
    no row is all -inf, so that the softmax is finite."""


def attention_blocks(
    valid: Tensor,
    *,
    chunk_size: int | None,
    left_context: int | None,
    block_size: int | None,
    dtype: torch.dtype,
) -> list[Block]:
    """Blocks of a batch of whole utterances.

    A query of chunk c sees the valid keys of [c * chunk - left_context, (c + 1) * chunk). A padded
    query sees itself too, as its window may hold no valid key.

    Args:
        valid: (N, T), True at the frames of each utterance.
        chunk_size: frames of a chunk; None: all frames are one chunk.
        left_context: frames before a chunk that are seen; None: all.
        block_size: queries of a block, about: a whole number of chunks; None: one block.
        dtype: of the biases.
    """
    num_frames = valid.size(1)
    if chunk_size is None:
        # An utterance without frames sees all of its padding.
        keys = (valid | ~valid.any(1, keepdim=True)).unsqueeze(1)
        bias = _bias(keys, dtype)
        return [Block(queries, (0, num_frames), bias) for queries in _split(num_frames, block_size)]
    frame = torch.arange(num_frames, device=valid.device)
    start = (frame // chunk_size * chunk_size).unsqueeze(1)
    blocks = []
    if block_size is not None:
        block_size = max(1, block_size // chunk_size) * chunk_size
    for first, last in _split(num_frames, block_size):
        begin = 0 if left_context is None else max(0, first - left_context)
        query, key, chunk = frame[first:last].unsqueeze(1), frame[begin:last], start[first:last]
        window = key < chunk + chunk_size
        if left_context is not None:
            window = window & (key >= chunk - left_context)  # in place, it cannot be exported
        seen = (window & valid[:, None, begin:last]) | (query == key)
        blocks.append(Block((first, last), (begin, last), _bias(seen, dtype)))
    return blocks


def gap_blocks(
    valid: Tensor, *, gap: int, block_size: int | None, dtype: torch.dtype
) -> list[Block]:
    """Blocks of whole utterances in which frame t sees every valid frame but t + 1 ... t + gap.

    A padded query sees itself too.

    Args:
        valid: (N, T), True at the frames of each utterance.
        gap: frames that are hidden.
        block_size: queries of a block; None: one block.
        dtype: of the biases.
    """
    num_frames = valid.size(1)
    frame = torch.arange(num_frames, device=valid.device)
    blocks = []
    for first, last in _split(num_frames, block_size):
        ahead = frame - frame[first:last].unsqueeze(1)
        seen = (((ahead <= 0) | (ahead > gap)) & valid.unsqueeze(1)) | (ahead == 0)
        blocks.append(Block((first, last), (0, num_frames), _bias(seen, dtype)))
    return blocks


def streaming_block(
    processed: Tensor, left_context: int, valid: Tensor, dtype: torch.dtype
) -> Block:
    """The one block of a chunk, whose keys are the cache and the chunk.

    Args:
        processed: (N,) frames before this chunk: as many frames at the cache's end are real,
            those before them are the zeros it began with.
        left_context: frames of the cache.
        valid: (N, T), True at the chunk's frames that are not padding.
        dtype: of the bias.
    """
    chunk = valid.size(1)
    key = torch.arange(-left_context, chunk, device=valid.device)  # 0 is the chunk's first frame
    cached = key[:left_context] >= -processed.unsqueeze(1)
    itself = key[left_context:].unsqueeze(1) == key
    seen = torch.cat([cached, valid], dim=1).unsqueeze(1) | itself
    return Block((0, chunk), (0, left_context + chunk), _bias(seen, dtype))


def _split(num_frames: int, block_size: int | None) -> list[tuple[int, int]]:
    if block_size is None:  # no arithmetic on num_frames, which is symbolic in an exported graph
        return [(0, num_frames)]
    return [
        (first, min(first + block_size, num_frames)) for first in range(0, num_frames, block_size)
    ]


def _bias(seen: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, -torch.inf)
