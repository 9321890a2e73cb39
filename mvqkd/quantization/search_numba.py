"""The code search of `search.py` for one CPU frame at a time: all that a frame needs stays in the
processor's cache. Compiled by numba at the first call."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise as neighbours

import numpy as np

from mvqkd.runtime.compiled import compiled


@compiled(nogil=True, fastmath={"contract", "reassoc", "nsz"})
def _search(unary, pairwise, beam_size, sweeps, codes):
    """Write codes (T, Q) of frames with costs `unary` (T, Q, K) and `pairwise` (Q, K, Q, K)."""
    num_frames, num_codebooks, size = unary.shape
    rows = np.empty((beam_size, size), dtype=np.float32)  # of every hypothesis, the current step
    # Hypotheses before and after a step, best first.
    old = np.zeros((beam_size, num_codebooks), dtype=np.int64)
    new = np.zeros((beam_size, num_codebooks), dtype=np.int64)
    old_cost = np.empty(beam_size, dtype=np.float32)
    cost = np.empty(beam_size, dtype=np.float32)
    parent = np.empty(beam_size, dtype=np.int64)
    choice = np.empty(beam_size, dtype=np.int64)
    for t in range(num_frames):
        filled = 1
        old_cost[0] = 0.0
        for step in range((1 + sweeps) * num_codebooks):
            q = step % num_codebooks
            first = step < num_codebooks
            others = q if first else num_codebooks
            count = 0
            for b in range(filled):
                # Most hypotheses of a beam differ in few codes, so that a row is computed faster
                # from the row of another than from its terms; and every term skipped saves a
                # read from a table that, for 16 codebooks and more, fits into no cache.
                like, fewest = -1, others
                for a in range(b):
                    differences = 0
                    for p in range(others):
                        if p != q and old[a, p] != old[b, p]:
                            differences += 1
                    if differences < fewest:
                        like, fewest = a, differences
                if fewest == 0 and like >= 0:
                    continue  # they differ in codebook q only: the same children
                row = rows[b]
                if 2 * fewest < others:
                    for k in range(size):
                        row[k] = rows[like, k]
                    for p in range(others):
                        if p != q and old[like, p] != old[b, p]:
                            more = pairwise[p, old[b, p], q]
                            less = pairwise[p, old[like, p], q]
                            for k in range(size):
                                row[k] += more[k] - less[k]
                else:
                    for k in range(size):
                        row[k] = unary[t, q, k]
                    for p in range(others):
                        if p != q:
                            pair = pairwise[p, old[b, p], q]
                            for k in range(size):
                                row[k] += pair[k]
                base = old_cost[b]
                if not first:
                    base -= row[old[b, q]]
                # Nothing at or above the limit can enter the beam.
                limit = np.float32(np.inf) if count < beam_size else cost[count - 1]
                for k in range(size):
                    c = row[k] + base
                    if c < limit:
                        if count < beam_size:
                            count += 1
                        i = count - 1
                        while i > 0 and cost[i - 1] > c:
                            cost[i] = cost[i - 1]
                            parent[i] = parent[i - 1]
                            choice[i] = choice[i - 1]
                            i -= 1
                        cost[i] = c
                        parent[i] = b
                        choice[i] = k
                        if count == beam_size:
                            limit = cost[count - 1]
            for i in range(count):
                for p in range(num_codebooks):
                    new[i, p] = old[parent[i], p]
                new[i, q] = choice[i]
                old_cost[i] = cost[i]
            old, new = new, old
            filled = count
        for p in range(num_codebooks):
            codes[t, p] = old[0, p]


def search(
    unary: np.ndarray, pairwise: np.ndarray, beam_size: int, sweeps: int, num_threads: int
) -> np.ndarray:
    """As `mvqkd.quantization.search.search`, on float32 arrays and `num_threads` threads."""
    codes = np.empty(unary.shape[:2], dtype=np.uint8)
    in_threads(
        lambda s: _search(unary[s], pairwise, beam_size, sweeps, codes[s]), len(unary), num_threads
    )
    return codes


def in_threads(job: Callable[[slice], None], num_frames: int, num_threads: int) -> None:
    """Do a job for all frames, some of them in every thread.

    Plain threads around kernels that hold no lock: numba's own pools do not survive a fork.
    """
    pieces = max(1, min(num_threads, num_frames // 16))
    bounds = [num_frames * i // pieces for i in range(pieces + 1)]
    jobs = [slice(begin, end) for begin, end in neighbours(bounds)]
    if pieces == 1:
        job(jobs[0])
        return
    with ThreadPoolExecutor(pieces) as pool:
        list(pool.map(job, jobs))
