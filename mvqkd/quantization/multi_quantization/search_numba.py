"""The joining of proposals of `search_multi_quantization.py` for one CPU frame at a time: all that
a frame needs stays in the processor's cache. Compiled by numba at the first call; only
`search_multi_quantization.py` imports this module."""

from __future__ import annotations

import numpy as np

from mvqkd.quantization.search_numba import in_threads
from mvqkd.runtime.compiled import compiled

_FASTMATH = {"contract", "reassoc", "nsz"}


@compiled(nogil=True, fastmath=_FASTMATH)
def _products(a, b, out):
    """Write a (M, D) times b (N, D) transposed to out (M, N), in tiles of 4 by 4."""
    rows, dim = a.shape
    columns = b.shape[0]
    zero = np.float32(0)
    for i in range(0, rows - rows % 4, 4):
        for j in range(0, columns - columns % 4, 4):
            s00 = s01 = s02 = s03 = zero
            s10 = s11 = s12 = s13 = zero
            s20 = s21 = s22 = s23 = zero
            s30 = s31 = s32 = s33 = zero
            for d in range(dim):
                a0, a1, a2, a3 = a[i, d], a[i + 1, d], a[i + 2, d], a[i + 3, d]
                b0, b1, b2, b3 = b[j, d], b[j + 1, d], b[j + 2, d], b[j + 3, d]
                s00 += a0 * b0
                s01 += a0 * b1
                s02 += a0 * b2
                s03 += a0 * b3
                s10 += a1 * b0
                s11 += a1 * b1
                s12 += a1 * b2
                s13 += a1 * b3
                s20 += a2 * b0
                s21 += a2 * b1
                s22 += a2 * b2
                s23 += a2 * b3
                s30 += a3 * b0
                s31 += a3 * b1
                s32 += a3 * b2
                s33 += a3 * b3
            out[i, j], out[i, j + 1], out[i, j + 2], out[i, j + 3] = s00, s01, s02, s03
            out[i + 1, j], out[i + 1, j + 1] = s10, s11
            out[i + 1, j + 2], out[i + 1, j + 3] = s12, s13
            out[i + 2, j], out[i + 2, j + 1] = s20, s21
            out[i + 2, j + 2], out[i + 2, j + 3] = s22, s23
            out[i + 3, j], out[i + 3, j + 1] = s30, s31
            out[i + 3, j + 2], out[i + 3, j + 3] = s32, s33
    for i in range(rows):
        whole = 0 if i >= rows - rows % 4 else columns - columns % 4
        for j in range(whole, columns):
            s = zero
            for d in range(dim):
                s += a[i, d] * b[j, d]
            out[i, j] = s


@compiled(nogil=True, fastmath=_FASTMATH)
def _keep(cost, index, best, which, count, number):
    """Put a cost and its index among the at most `number` lowest, `best` and `which`, in order, of
    which there are `count`; return how many there are now. One that does not belong there is for
    the caller to leave out, as a call takes longer than a comparison."""
    count = min(count + 1, number)
    n = count - 1
    while n > 0 and best[n - 1] > cost:
        best[n] = best[n - 1]
        which[n] = which[n - 1]
        n -= 1
    best[n] = cost
    which[n] = index
    return count


@compiled(nogil=True, fastmath=_FASTMATH)
def _join(centers, codes, costs, base, before, widths, begin, end, joined_codes):
    """Write joined codes (T, Q) of frames begin..end-1.

    `centers` are (Q, K, D), `codes` (T, Q), `costs` (Q, T, K) less `base` (T, Q), and `before`
    (T,); `widths` has how many proposals are kept of single codebooks, of pairs, of pairs of pairs,
    and so on, the last 1.
    """
    num_codebooks, size, dim = centers.shape
    levels = len(widths) - 1
    widest = widths.max()
    # Of the current groups, and of those that are joined to next ones.
    deltas = np.empty((num_codebooks // 2, widest, dim), dtype=np.float32)
    joined = np.empty((num_codebooks // 2, widest, dim), dtype=np.float32)
    pair = np.empty((2, widest, dim), dtype=np.float32)
    cost = np.empty((num_codebooks, widest), dtype=np.float32)
    products = np.empty((widest, widest), dtype=np.float32)
    best = np.empty(widest, dtype=np.float32)
    # Of what proposals of its two halves a group's are made: first * width + second.
    halves = np.empty((levels, num_codebooks // 2, widest), dtype=np.int64)
    kept = np.empty((num_codebooks, widest), dtype=np.int64)
    taken = np.empty(num_codebooks, dtype=np.int64)
    for t in range(begin, end):
        for q in range(num_codebooks):
            count, number, limit = 0, widths[0], np.float32(np.inf)
            for k in range(size):
                c = costs[q, t, k]
                if count < number or c < limit:
                    count = _keep(c, k, best, kept[q], count, number)
                    limit = best[count - 1]
            for n in range(number):
                cost[q, n] = best[n] + base[t, q]
        groups = num_codebooks
        for level in range(levels):
            groups //= 2
            width, number = widths[level], widths[level + 1]
            for g in range(groups):
                if level == 0:
                    for half in range(2):
                        q = 2 * g + half
                        now = centers[q, codes[t, q]]
                        for p in range(width):
                            row = centers[q, kept[q, p]]
                            for d in range(dim):
                                pair[half, p, d] = row[d] - now[d]
                    first, second = pair[0, :width], pair[1, :width]
                else:
                    first, second = deltas[2 * g, :width], deltas[2 * g + 1, :width]
                _products(first, second, products)
                count, limit = 0, np.float32(np.inf)
                made_of = halves[level, g]
                for i in range(width):
                    other = cost[2 * g, i] - before[t]
                    for j in range(width):
                        c = 2 * products[i, j] + cost[2 * g + 1, j] + other
                        if count < number or c < limit:
                            count = _keep(c, i * width + j, best, made_of, count, number)
                            limit = best[count - 1]
                for n in range(number):
                    cost[g, n] = best[n]
                if groups > 1:
                    for n in range(number):
                        a, b = first[made_of[n] // width], second[made_of[n] % width]
                        for d in range(dim):
                            joined[g, n, d] = a[d] + b[d]
            deltas, joined = joined, deltas
        taken[0] = 0
        # What a group's only proposal left is made of, back to the codebooks.
        groups = 1
        for level in range(levels - 1, -1, -1):
            for g in range(groups - 1, -1, -1):
                half = halves[level, g, taken[g]]
                taken[2 * g + 1] = half % widths[level]
                taken[2 * g] = half // widths[level]
            groups *= 2
        for q in range(num_codebooks):
            joined_codes[t, q] = kept[q, taken[q]]


def join(
    centers: np.ndarray,
    codes: np.ndarray,
    costs: np.ndarray,
    base: np.ndarray,
    before: np.ndarray,
    widths: list[int],
    num_threads: int,
) -> np.ndarray:
    """Codes (T, Q) int64, see `search_multi_quantization._join`, on `num_threads` threads."""
    joined = np.empty(codes.shape, dtype=np.int64)
    sizes = np.array(widths)
    in_threads(
        lambda s: _join(centers, codes, costs, base, before, sizes, s.start, s.stop, joined),
        len(codes),
        num_threads,
    )
    return joined
