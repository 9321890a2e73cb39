"""The lattice recursion on CUDA: one kernel launch, one program per utterance.

The same algorithm as in ``lattice_numba.py``: step ``k = t + skew * s`` computes all cells of an
anti-diagonal (regular topology) or of a frame (modified) at once, one lane per position s; the
forward pass keeps the share of each cell's probability that came in by a symbol, from which the
backward pass gets the occupancies by multiplications. Neighbouring lanes exchange values through
small buffers in global memory, which stay in the cache of the program's processor.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _forward_backward_kernel(
    symbol,
    blank,
    lens,
    token_lens,
    scores,
    symbol_occupancy,
    blank_occupancy,
    shares,
    exchange,
    num_frames,
    num_positions,
    num_steps,
    skew: tl.constexpr,
    block: tl.constexpr,
):
    # log 0 is -1e30 here: -inf would give inf - inf = nan.
    log_zero = -1e30
    n = tl.program_id(0).to(tl.int64)
    symbol += n * num_frames * (num_positions - 1)
    blank += n * num_frames * num_positions
    symbol_occupancy += n * num_frames * (num_positions - 1)
    blank_occupancy += n * num_frames * num_positions
    shares += n * num_steps * num_positions
    exchange += n * 2 * block
    length = tl.load(lens + n).to(tl.int32)
    num_tokens = tl.load(token_lens + n).to(tl.int32)
    last = length + skew * num_tokens
    s = tl.arange(0, block)

    here = tl.where(s == 0, 0.0, log_zero).to(blank.dtype.element_ty)
    k = 1
    while k <= last:  # the interpreter that tests use has no range() over tensors
        # Two buffers in turn, so that one barrier a step is enough.
        buffer = exchange + (k % 2) * block
        tl.store(buffer + s, here)
        tl.debug_barrier()
        below = tl.load(buffer + s - 1, mask=s > 0, other=log_zero)
        t = k - skew * s
        t_symbol = t - 1 + skew
        by_symbol = (s > 0) & (s <= num_tokens) & (t_symbol >= 0) & (t_symbol < length)
        by_blank = (s <= num_tokens) & (t > 0) & (t <= length)
        a = tl.load(symbol + t_symbol * (num_positions - 1) + s - 1, mask=by_symbol, other=log_zero)
        b = tl.load(blank + (t - 1) * num_positions + s, mask=by_blank, other=log_zero)
        # Comparisons, not maximum(), so that nan comes through.
        a = below + tl.where(a < log_zero, log_zero, a)
        b = here + tl.where(b < log_zero, log_zero, b)
        difference = a - b
        ratio = tl.exp(-tl.abs(difference))
        share = tl.where(difference >= 0, 1.0, ratio) / (1.0 + ratio)
        here = tl.where(difference >= 0, a, b) + tl.log(1.0 + ratio)
        tl.store(shares + (k - 1) * num_positions + s, share, mask=s < num_positions)
        k += 1
    total = tl.sum(tl.where(s == num_tokens, here, 0.0))
    impossible = total < -1e29
    tl.store(scores + n, tl.where(impossible, float("-inf"), total))

    possible = tl.where(impossible, 0.0, 1.0).to(blank.dtype.element_ty)
    here = tl.where(s == num_tokens, possible, 0.0)
    tl.debug_barrier()
    k = last
    while k >= 1:
        t = k - skew * s
        t_symbol = t - 1 + skew
        by_symbol = (s > 0) & (s <= num_tokens) & (t_symbol >= 0) & (t_symbol < length)
        by_blank = (s <= num_tokens) & (t > 0) & (t <= length)
        share = tl.load(shares + (k - 1) * num_positions + s, mask=s < num_positions, other=0.0)
        came_by_symbol = here * share
        came_by_blank = here - came_by_symbol
        tl.store(
            symbol_occupancy + t_symbol * (num_positions - 1) + s - 1,
            came_by_symbol,
            mask=by_symbol,
        )
        tl.store(blank_occupancy + (t - 1) * num_positions + s, came_by_blank, mask=by_blank)
        buffer = exchange + (k % 2) * block
        tl.store(buffer + s, came_by_symbol)
        tl.debug_barrier()
        above = tl.load(buffer + s + 1, mask=s + 1 < block, other=0.0)
        here = came_by_blank + above
        k -= 1


def forward_backward(
    symbol: Tensor, blank: Tensor, lens: Tensor, token_lens: Tensor, *, skew: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-likelihoods and occupancies; see :func:`mvqkd.losses.lattice.lattice_log_likelihood`.

    ``skew`` is 1 for the regular topology and 0 for the modified one.
    """
    num_utterances, num_frames, num_positions = blank.shape
    num_steps = num_frames + skew * (num_positions - 1)
    block = triton.next_power_of_2(num_positions)
    scores = blank.new_empty(num_utterances)
    symbol_occupancy, blank_occupancy = symbol.new_zeros(symbol.shape), blank.new_zeros(blank.shape)
    if num_utterances == 0:
        return scores, symbol_occupancy, blank_occupancy
    with torch.cuda.device_of(blank):
        _forward_backward_kernel[(num_utterances,)](
            symbol.contiguous(),
            blank.contiguous(),
            lens.long().contiguous(),
            token_lens.long().contiguous(),
            scores,
            symbol_occupancy,
            blank_occupancy,
            blank.new_empty(num_utterances, num_steps, num_positions),
            blank.new_empty(num_utterances, 2, block),
            num_frames,
            num_positions,
            num_steps,
            skew=skew,
            block=block,
            num_warps=max(1, min(8, block // 64)),
        )
    return scores, symbol_occupancy, blank_occupancy
