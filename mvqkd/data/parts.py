"""Names of a corpus's parts. Only the standard library is imported, so that programs can refuse a
wrong name at once."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from mvqkd.errors import UserError


def expand_parts(
    patterns: Iterable[str], available: Iterable[str], where: object, *, remedy: str
) -> list[str]:
    """Names of parts that match names or patterns (`train-*`), in the order of the patterns.

    Args:
        patterns: a name must be there; a pattern may match nothing, unless all do.
        available: names of parts.
        where: they are, for the error.
        remedy: when there is no part at all.

    Raises:
        UserError: as above.
    """
    patterns, available = list(patterns), sorted(available)
    parts: dict[str, None] = {}
    for pattern in patterns:
        found = [name for name in available if fnmatchcase(name, pattern)]
        if not found and not set(pattern) & set("*?["):
            raise UserError(
                f"there is no part {pattern} in {where}",
                remedy=f"name one of: {', '.join(available)}" if available else remedy,
            )
        parts.update(dict.fromkeys(found))
    if patterns and not parts:
        raise UserError(
            f"no part in {where} matches {' '.join(patterns)}",
            remedy=f"name one of: {', '.join(available)}" if available else remedy,
        )
    return list(parts)


def manifest_parts(patterns: Iterable[str], manifest_dir: Path, prefix: str) -> list[str]:
    """`expand_parts` for the parts that stage 1 prepared."""
    start = f"{prefix}_supervisions_"
    paths = manifest_dir.glob(f"{start}*.jsonl.gz")
    available = [path.name[len(start) :].removesuffix(".jsonl.gz") for path in paths]
    where = manifest_dir / f"{start}*.jsonl.gz"
    return expand_parts(patterns, available, where, remedy="./run.sh --stage 1 --stop-stage 1")
