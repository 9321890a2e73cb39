from __future__ import annotations

import pytest
import torch

from mvqkd.models.masks import attention_blocks, streaming_block, valid_frames

LENS = torch.tensor([11, 4, 0])
FRAMES = 11


def seen(blocks: list, num_frames: int) -> torch.Tensor:
    """(N, T, T) bool from the blocks, checking that they cover the queries in order."""
    table = torch.zeros(len(LENS), num_frames, num_frames, dtype=torch.bool)
    done = 0
    for (first, last), (begin, end), bias in blocks:
        assert first == done < last
        assert bool(((bias == 0) | (bias == -torch.inf)).all())
        table[:, first:last, begin:end] = (bias == 0).expand(-1, last - first, -1)
        done = last
    assert done == num_frames
    return table


def test_valid_frames() -> None:
    expected = [[1, 1, 0], [0, 0, 0], [1, 1, 1]]
    assert valid_frames(torch.tensor([2, 0, 3]), 3).int().tolist() == expected


@pytest.mark.parametrize("block_size", [None, 1, 3, 4, 64])
@pytest.mark.parametrize(
    "chunk_size, left_context", [(1, 0), (4, 0), (4, 3), (4, 8), (3, None), (20, 2)]
)
def test_a_frame_sees_its_window(
    chunk_size: int, left_context: int | None, block_size: int | None
) -> None:
    blocks = attention_blocks(
        valid_frames(LENS, FRAMES),
        chunk_size=chunk_size,
        left_context=left_context,
        block_size=block_size,
        dtype=torch.float32,
    )
    table = seen(blocks, FRAMES)
    for n, length in enumerate(LENS.tolist()):
        for query in range(FRAMES):
            start = query // chunk_size * chunk_size
            oldest = 0 if left_context is None else start - left_context
            for key in range(FRAMES):
                inside = max(oldest, 0) <= key < start + chunk_size and key < length
                assert table[n, query, key] == (inside or query == key), (n, query, key)


@pytest.mark.parametrize("block_size", [None, 4, 64])
def test_full_context_sees_all_valid_frames(block_size: int | None) -> None:
    blocks = attention_blocks(
        valid_frames(LENS, FRAMES),
        chunk_size=None,
        left_context=None,
        block_size=block_size,
        dtype=torch.float32,
    )
    table = seen(blocks, FRAMES)
    for n, length in enumerate(LENS.tolist()):
        keys = torch.arange(FRAMES) < (length or FRAMES)  # no row without a key
        assert torch.equal(table[n], keys.expand(FRAMES, -1))


def test_blocks_touch_only_their_window() -> None:
    blocks = attention_blocks(
        torch.ones(1, 64, dtype=torch.bool),
        chunk_size=4,
        left_context=6,
        block_size=8,
        dtype=torch.float32,
    )
    assert [block.queries for block in blocks] == [(i, i + 8) for i in range(0, 64, 8)]
    assert [block.keys for block in blocks] == [(max(0, i - 6), i + 8) for i in range(0, 64, 8)]


def test_zeros_of_a_new_stream_are_not_seen() -> None:
    block = streaming_block(
        torch.tensor([0, 2, 3, 50]), 3, torch.ones(4, 2, dtype=torch.bool), torch.float32
    )
    assert block.queries == (0, 2)
    assert block.keys == (0, 5)
    for bias, real in zip(block.bias, (0, 2, 3, 3), strict=True):
        expected = [False] * (3 - real) + [True] * (real + 2)
        assert (bias == 0).tolist() == [expected, expected]


def test_a_stream_that_has_ended_has_finite_rows() -> None:
    block = streaming_block(
        torch.tensor([0]), 2, torch.zeros(1, 3, dtype=torch.bool), torch.float32
    )
    assert bool((block.bias == 0).any(-1).all())
