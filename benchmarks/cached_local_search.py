"""The local search of faiss's LocalSearchQuantizer, from sums that are kept.

faiss adds up Q terms for each of the 256 codes that a codebook could have, each time that it asks
for the best; nearly always the answer is the code that is there. Here the sums of all codebooks
stay in memory and change when a code does. For when faiss's own time is not being measured, so
that its errors are known sooner.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit


def search_codes(
    quantizer: Any, codes: np.ndarray, x: np.ndarray, num_rounds: int, numbers: Any
) -> None:
    """What `quantizer.icm_encode` does, with the same random numbers, up to rounding of float32.

    Each round changes some codes by chance, goes `icm_iters` times over the codebooks, giving each
    its best code, and keeps the result where it is better (Martinez et al. 2018, "LSQ++").

    Args:
        quantizer: a `faiss.LocalSearchQuantizer` with codebooks.
        codes: (T, Q) int32 codes to begin with; changed in place.
        x: (T, D) float32 frames.
        num_rounds: rounds of the search.
        numbers: faiss's random numbers, `faiss.RandomGenerator(seed).mt`.
    """
    import faiss

    books = faiss.vector_to_array(quantizer.codebooks).reshape(quantizer.M, quantizer.K, -1)
    entries = books.reshape(-1, quantizer.d)
    # What an entry adds to the error with each entry of the other codebooks: (Q * K, Q * K)
    pairs = 2 * entries @ entries.T
    for q in range(quantizer.M):
        own = slice(q * quantizer.K, (q + 1) * quantizer.K)
        pairs[own, own] = 0
    norms = np.square(entries).sum(axis=1)
    # faiss draws the numbers of so many frames at a time, round by round.
    for begin in range(0, len(x), quantizer.chunk_size):
        part = slice(begin, begin + quantizer.chunk_size)
        # Drawn into codes of -1, which tells what is drawn from what is there.
        draws = np.full((num_rounds, *codes[part].shape), -1, dtype=np.int32)
        for draw in draws:
            quantizer.perturb_codes(faiss.swig_ptr(draw), len(draw), numbers)
        alone = norms - 2 * x[part] @ entries.T
        _search(codes[part], x[part], draws, alone, pairs, books, quantizer.icm_iters)


@njit(cache=True)
def _search(
    codes: np.ndarray,
    x: np.ndarray,
    draws: np.ndarray,
    alone: np.ndarray,
    pairs: np.ndarray,
    books: np.ndarray,
    icm_iters: int,
) -> None:
    """Search the codes (T, Q) of frames x (T, D); `alone` (T, Q * K) is what an entry adds to a
    frame's error by itself, and becomes what it adds beside the frame's other entries."""
    num_codebooks, num_entries, _ = books.shape
    for t in range(len(x)):
        best, sums = codes[t], alone[t]
        for q in range(num_codebooks):
            sums += pairs[q * num_entries + best[q]]
        least = _error(best, x[t], books)
        best_sums = sums.copy()
        now = best.copy()
        for i in range(len(draws)):
            for q in range(num_codebooks):
                if draws[i, t, q] >= 0:
                    _change(now, sums, q, draws[i, t, q], pairs, num_entries)
            for _ in range(icm_iters):
                before = now.copy()
                for q in range(num_codebooks):
                    code = _lowest(sums, q * num_entries, num_entries)
                    _change(now, sums, q, code, pairs, num_entries)
                if np.array_equal(now, before):
                    break  # nor would anything change in the next
            error = _error(now, x[t], books)
            if error < least:
                least = error
                best[:] = now
                best_sums[:] = sums
            else:
                now[:] = best
                sums[:] = best_sums


@njit(cache=True)
def _change(now, sums, q, code, pairs, num_entries):  # type: ignore[no-untyped-def]
    """Give codebook q another code."""
    if code != now[q]:
        sums += pairs[q * num_entries + code] - pairs[q * num_entries + now[q]]
        now[q] = code


@njit(cache=True, fastmath=True)
def _lowest(sums, first, num_entries):  # type: ignore[no-untyped-def]
    """The first of the lowest sums of a codebook (two loops, since the first one is vectorised)."""
    lowest = sums[first]
    for k in range(first, first + num_entries):
        lowest = min(lowest, sums[k])
    for k in range(num_entries):
        if sums[first + k] == lowest:
            return k
    return 0


@njit(cache=True)
def _error(now, x, books):  # type: ignore[no-untyped-def]
    """The squared error of a frame that is decoded from the codes `now`."""
    rest = x.copy()
    for q in range(len(now)):
        rest -= books[q, now[q]]
    return np.square(rest).sum()
