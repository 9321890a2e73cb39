"""faiss's LocalSearchQuantizer, trained an iteration at a time.

At 32 codebooks its training takes hours of a core. What `train()` does is done here in steps that
are kept in a file, so that a training that was stopped goes on. Only the random numbers are others,
because each step draws its own, and the codes of the last codebooks, which `train()` finds and
forgets, are not looked for. The first step is timed; in the others many codebooks get their codes
from kept sums.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from cached_local_search import search_codes
from tqdm import tqdm

from mvqkd.storage.files import atomic_path


def train_local_search(
    quantizer: Any,
    x: np.ndarray,
    kept: Path | None,
    seconds: Callable[[], float],
    *,
    cached_from: int = 16,
) -> float:
    """Train a `faiss.LocalSearchQuantizer` as its `train` does (Martinez et al. 2018, "LSQ++").

    Args:
        quantizer: untrained.
        x: (T, D) float32 frames.
        kept: where codes are kept between iterations; None: nowhere.
        seconds: a clock.
        cached_from: codebooks from which on kept sums are faster than faiss's own search.

    Returns:
        Seconds that all iterations would have taken like the first one.
    """
    import faiss

    num_frames, num_codebooks = len(x), quantizer.M
    quantizer.nperts = min(quantizer.nperts, num_codebooks)
    quantizer.codebooks.resize(num_codebooks * quantizer.K * quantizer.d)
    deviations = faiss.Float32Vector()
    faiss.copy_array_to_vector(x.std(axis=0).astype(np.float32), deviations)
    random = np.random.default_rng(quantizer.random_seed)
    codes = random.integers(0, quantizer.K, (num_frames, num_codebooks), dtype=np.int32)
    first, spent = 0, 0.0
    if kept is not None and kept.exists():
        with np.load(kept) as file:
            codes, first, spent = file["codes"], int(file["iterations"]), float(file["seconds"])
    pointers = faiss.swig_ptr(codes), faiss.swig_ptr(x)
    total = quantizer.train_iters
    # At the end the codebooks are those that the codes of the last iteration but one ask for.
    for i in tqdm(range(first, total), initial=first, total=total, mininterval=10):
        begin = seconds()
        numbers = faiss.RandomGenerator(quantizer.random_seed + i).mt
        numbers.disown()  # faiss would warn that nobody deletes it
        quantizer.update_codebooks(pointers[1], pointers[0], num_frames)
        temperature = (1 - (i + 1) / total) ** quantizer.p
        quantizer.perturb_codebooks(temperature, deviations, numbers)
        if i == 0 or (i < total - 1 and num_codebooks < cached_from):
            quantizer.icm_encode(*pointers, num_frames, quantizer.train_ils_iters, numbers)
        elif i < total - 1:  # nobody needs the codes of the last codebooks
            search_codes(quantizer, codes, x, quantizer.train_ils_iters, numbers)
        if i == 0:
            spent = total * (seconds() - begin)
        if kept is not None and i < total - 1:
            with atomic_path(kept) as path, path.open("wb") as file:
                np.savez(file, codes=codes, iterations=i + 1, seconds=spent)
    quantizer.is_trained = True
    quantizer.compute_codebook_tables()
    return spent
