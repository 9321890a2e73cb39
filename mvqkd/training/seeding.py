"""Randomness as a function of where training is, so that resuming needs no generator's state."""

from __future__ import annotations

import hashlib


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2^63) for this place: for example `derive_seed(42, "step", 1000, rank)`.

    A hash, not an arithmetic combination: neighbouring steps and ranks get unrelated seeds.

    >>> derive_seed(42, "step", 1000, 0) == derive_seed(42, "step", 1000, 0)
    True
    >>> derive_seed(42, "step", 1000, 0) == derive_seed(42, "step", 1000, 1)
    False
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def choose(values: list[int], *parts: int | str) -> int:
    """One of `values`, uniformly, by `derive_seed(*parts)`."""
    return values[derive_seed(*parts) % len(values)]
