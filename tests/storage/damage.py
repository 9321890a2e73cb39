"""Damage to stored files, and what must come of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

from mvqkd.errors import UserError


def damages(whole: bytes, seed: str, *, flips: int) -> Iterator[tuple[str, bytes | None]]:
    """Names and contents of damaged versions of a file; None: it is gone."""
    for bit in random.Random(seed).sample(range(8 * len(whole)), min(flips, 8 * len(whole))):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        yield f"bit {bit}", bytes(damaged)
    yield "half", whole[: len(whole) // 2]
    yield "last byte", whole[:-1]
    yield "empty", b""
    yield "deleted", None


def outcome(path: Path, content: bytes | None, read: Callable[[], object], expected: object) -> str:
    """What comes of reading a file with this content: `same`, the words of an error that names
    the file, or what is wrong."""
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    try:
        found = read()
    except UserError as error:
        # The file, or one that was made with it and is beside it.
        named = path.name in error.problem or str(path.parent) in error.problem
        hint = "weights_only" in str(error)
        return error.problem if named and not hint else f"WRONG: not named: {error}"
    except Exception as error:
        return f"WRONG: {type(error).__name__}: {error}"
    return "same" if found == expected else "WRONG: another result"
