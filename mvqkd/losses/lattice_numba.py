"""The lattice recursion on a CPU, compiled by numba.

Three things make it fast. The lattice is *skewed*: row ``k = t + skew * s`` of the working arrays
holds the cells of one anti-diagonal (regular topology, ``skew = 1``) or of one frame (modified,
``skew = 0``), which do not depend on each other, so the inner loop runs over adjacent memory in
vector registers. Exponential and logarithm are float32 polynomials, so that the compiler can
vectorise them (the C library's cannot be). And the forward pass keeps the *share* of each cell's
probability that came in by a symbol, with which the backward pass needs two multiplications a
cell, no exponential.

Threads are plain Python threads that share the batch among them; the compiled code releases the
interpreter lock. numba's own thread pools are avoided: one of them aborts the process when two
threads call it at once, another when a process that used it forks (as data loaders do).
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload
from torch import Tensor

from mvqkd.runtime.compiled import compiled

# numba's own annotations forget that the first argument is not for the caller to give.
_intrinsic: Any = intrinsic

# Stands for log 0 inside the recursion: -inf would give inf - inf = nan.
_LOG_ZERO = np.float32(-1e30)
# Totals below this are impossible lattices.
_IMPOSSIBLE = -1e29
# Occupancies below this become 0: denormal numbers would slow down all products they enter by much.
_NEGLIGIBLE, _ZERO = np.float32(1e-30), np.float32(0)
# Scores are kept relative to a running offset, so that float32 spends its digits on differences
# between paths and not on the common total; this is how many steps pass between two shifts.
_STEPS_BETWEEN_SHIFTS = 16
# About a millisecond of work. Below it a thread takes longer to start than it saves, the more so
# as torch's own threads keep their cores busy for a while after each operation.
_CELLS_WORTH_A_THREAD = 250_000


@_intrinsic
def _bits_to_float32(typing_context: Any, bits: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), generate


@_intrinsic
def _float32_to_bits(typing_context: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(32))

    return types.int32(types.float32), generate


def _log_add(a: float, b: float) -> tuple[float, float]:
    """``log(exp(a) + exp(b))`` and the share of ``a`` in it; see the overload below."""
    raise NotImplementedError("only in compiled code")


@overload(_log_add)
def _overload_log_add(a: Any, b: Any) -> Any:
    if a == types.float32:
        # Interpolations at Chebyshev nodes: exp to 8e-9, log1p to 4e-9 (both relative).
        one, two = np.float32(1), np.float32(2)
        log2_e = np.float32(1.4426950408889634)
        # ln 2 in two parts, the first exact in few bits.
        ln2_high, ln2_low = np.float32(0.693359375), np.float32(-2.12194440e-4)
        e2, e3, e4 = np.float32(0.5), np.float32(0.16666573), np.float32(0.04166655)
        e5, e6 = np.float32(0.0083637739), np.float32(0.0013926927)
        l0, l1, l2 = np.float32(2.0000000077), np.float32(0.66666322), np.float32(0.40024595)
        l3, l4 = np.float32(0.27965158), np.float32(0.28157778)
        # Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
        rounding = np.float32(12582912.0)
        bias = np.int32(127)
        exponent_bits = np.int32(23)
        smallest = np.float32(-87.0)
        zero = np.float32(0)

        def float32_log_add(a: Any, b: Any) -> Any:
            difference = a - b
            x = -abs(difference)
            floored = smallest if x < smallest else x
            shifted = floored * log2_e + rounding
            integer = shifted - rounding
            r = (floored - integer * ln2_high) - integer * ln2_low
            power = one + r + r * r * (e2 + r * (e3 + r * (e4 + r * (e5 + r * e6))))
            scale = _bits_to_float32((_float32_to_bits(shifted) + bias) << exponent_bits)
            ratio = zero if x < smallest else power * scale
            z = ratio / (two + ratio)
            z2 = z * z
            log1p = z * (l0 + z2 * (l1 + z2 * (l2 + z2 * (l3 + z2 * l4))))
            share_of_larger = one / (one + ratio)
            larger = a if difference >= zero else b
            share = share_of_larger if difference >= zero else ratio * share_of_larger
            return larger + log1p, share

        return float32_log_add

    def float64_log_add(a: Any, b: Any) -> Any:
        difference = a - b
        ratio = np.exp(-abs(difference))
        share_of_larger = 1.0 / (1.0 + ratio)
        if difference >= 0.0:
            return a + np.log1p(ratio), share_of_larger
        return b + np.log1p(ratio), ratio * share_of_larger

    return float64_log_add


@compiled(nogil=True, error_model="numpy", fastmath={"contract", "nsz", "arcp"})
def _forward_backward(
    symbol: Any,
    blank: Any,
    lens: Any,
    token_lens: Any,
    skew: int,
    first: int,
    step: int,
    scores: Any,
    symbol_occupancy: Any,
    blank_occupancy: Any,
) -> None:
    """Utterances ``first, first + step, ...``; results go to the last three arguments."""
    num_utterances, max_frames, max_width = blank.shape
    max_rows = max_frames + skew * (max_width - 1) + 1
    from_symbol = np.empty(max_rows * max_width, symbol.dtype)
    from_blank = np.empty(max_rows * max_width, symbol.dtype)
    # One cell wider than a row: element 0 lies before the first position and stays log 0.
    previous = np.empty(max_width + 1, symbol.dtype)
    current = np.empty(max_width + 1, symbol.dtype)

    for n in range(first, num_utterances, step):
        num_frames = lens[n]
        num_tokens = token_lens[n]
        width = num_tokens + 1
        last = num_frames + skew * num_tokens
        # from_symbol[k, s] is the score of entering cell (k, s) by a symbol, from_blank by blank.
        size = (last + 1) * width
        from_symbol[:size] = _LOG_ZERO
        from_blank[:size] = _LOG_ZERO
        stride = skew * width
        for t in range(num_frames):
            row = symbol[n, t]
            target = from_symbol[(t + 1) * width + 1 :]
            for s in range(num_tokens):
                value = row[s]
                target[s * (stride + 1)] = _LOG_ZERO if value < _LOG_ZERO else value
            row = blank[n, t]
            target = from_blank[(t + 1) * width :]
            for s in range(width):
                value = row[s]
                target[s * (stride + 1)] = _LOG_ZERO if value < _LOG_ZERO else value

        previous[:] = _LOG_ZERO
        current[:] = _LOG_ZERO
        previous[1] = 0.0
        offset = 0.0
        for k in range(1, last + 1):
            low = max(0, k - num_frames) * skew
            high = min(num_tokens, k) + 1
            by_symbol = from_symbol[k * width + low : k * width + high]
            by_blank = from_blank[k * width + low : k * width + high]
            before = previous[low:high]
            here = previous[low + 1 : high + 1]
            target = current[low + 1 : high + 1]
            for i in range(high - low):
                target[i], by_symbol[i] = _log_add(before[i] + by_symbol[i], here[i] + by_blank[i])
            if k % _STEPS_BETWEEN_SHIFTS == 0:
                best = target[0]
                for i in range(high - low):
                    best = max(best, target[i])
                for i in range(high - low):
                    target[i] -= best
                offset += best
            previous, current = current, previous
        total = offset + previous[num_tokens + 1]
        if total < _IMPOSSIBLE:
            scores[n] = -np.inf
            continue
        scores[n] = total

        # From here on from_symbol holds shares, then occupancies; from_blank only the latter.
        previous[:] = 0.0
        previous[num_tokens + 1] = 1.0
        for k in range(last, 0, -1):
            low = max(0, k - num_frames) * skew
            high = min(num_tokens, k) + 1
            by_symbol = from_symbol[k * width + low : k * width + high]
            by_blank = from_blank[k * width + low : k * width + high]
            here = previous[low + 1 : high + 1]
            for i in range(high - low):
                by_symbol[i] *= here[i]
                by_blank[i] = here[i] - by_symbol[i]
                by_symbol[i] = _ZERO if by_symbol[i] < _NEGLIGIBLE else by_symbol[i]
                by_blank[i] = _ZERO if by_blank[i] < _NEGLIGIBLE else by_blank[i]
            current[:] = 0.0
            current[low + 1 : high + 1] = by_blank
            target = current[low:high]
            for i in range(high - low):
                target[i] += by_symbol[i]
            previous, current = current, previous
        for t in range(num_frames):
            # The modified topology cannot have emitted more than one token a frame; such cells
            # were not visited.
            reachable = num_tokens if skew else min(num_tokens, t + 1)
            row = symbol_occupancy[n, t]
            source = from_symbol[(t + 1) * width + 1 :]
            for s in range(reachable):
                row[s] = source[s * (stride + 1)]
            row = blank_occupancy[n, t]
            source = from_blank[(t + 1) * width :]
            for s in range(reachable + 1):
                row[s] = source[s * (stride + 1)]


def forward_backward(
    symbol: Tensor, blank: Tensor, lens: Tensor, token_lens: Tensor, *, skew: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-likelihoods and occupancies; see :func:`mvqkd.losses.lattice.lattice_log_likelihood`.

    ``skew`` is 1 for the regular topology and 0 for the modified one.
    """
    num_utterances = blank.shape[0]
    scores = blank.new_empty(num_utterances)
    symbol_occupancy, blank_occupancy = torch.zeros_like(symbol), torch.zeros_like(blank)
    inputs = [x.contiguous().numpy() for x in (symbol, blank, lens.long(), token_lens.long())]
    outputs = [x.numpy() for x in (scores, symbol_occupancy, blank_occupancy)]
    shares = min(num_utterances, blank.numel() // _CELLS_WORTH_A_THREAD)
    num_threads = max(1, min(torch.get_num_threads(), shares))

    def work(first: int) -> None:
        _forward_backward(*inputs, skew, first, num_threads, *outputs)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(1, num_threads)]
    for thread in threads:
        thread.start()
    work(0)
    for thread in threads:
        thread.join()
    return scores, symbol_occupancy, blank_occupancy
