"""Names of a corpus's splits, and what each is for. Only the standard library is imported, so that
programs can refuse a wrong name at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from mvqkd.errors import UserError

ROLES = ("train", "dev", "test", "unlabelled")
"""What a split is for; unlabelled audio is trained on too."""


def expand_splits(
    patterns: Iterable[str],
    available: Iterable[str],
    where: object,
    *,
    remedy: str,
    parameters: tuple[str, ...] = (),
) -> list[str]:
    """Names of splits that match names or patterns (`train-*`), in the order of the patterns.

    Args:
        patterns: a name must be there; a pattern may match nothing, unless all do.
        available: names of splits.
        where: they are, for the error.
        remedy: in place of naming another split.
        parameters: that the patterns are given with, for the error.

    Raises:
        UserError: as above.
    """
    patterns, available = list(patterns), sorted(available)
    if available:
        remedy = f"{remedy}, or name some of: {', '.join(available)}"
    splits: dict[str, None] = {}
    for pattern in patterns:
        found = [name for name in available if fnmatchcase(name, pattern)]
        if not found and not set(pattern) & set("*?["):
            raise UserError(
                f"there is no split {pattern} in {where}", remedy=remedy, parameters=parameters
            )
        splits.update(dict.fromkeys(found))
    if patterns and not splits:
        raise UserError(
            f"no split in {where} matches {' '.join(patterns)}",
            remedy=remedy,
            parameters=parameters,
        )
    return list(splits)


def choose_splits(
    patterns: Mapping[str, Iterable[str]], available: Iterable[str], where: object, *, remedy: str
) -> dict[str, list[str]]:
    """The splits of every role, none of them both trained on and evaluated on.

    Args:
        patterns: names or patterns by role, see `expand_splits`; those of test may match nothing,
            since small corpora have no such split.
        available: names of splits.
        where: they are, for the error.
        remedy: in place of naming another split.

    Returns:
        By role; test without the splits of dev, unlabelled without those of any other role.

    Raises:
        UserError: a name or all patterns of a role match nothing, or training splits are dev or
            test splits too.
    """
    wanted = {role: list(patterns.get(role, ())) for role in ROLES}
    available = list(available)

    def expand(*roles: str) -> list[str]:
        asked = [pattern for role in roles for pattern in wanted[role]]
        parameters = (f"{roles[-1]}_splits",)
        return expand_splits(asked, available, where, remedy=remedy, parameters=parameters)

    splits = {"train": expand("train"), "dev": expand("dev")}
    splits["test"] = [name for name in expand("dev", "test") if name not in splits["dev"]]
    taken = {name for names in splits.values() for name in names}
    splits["unlabelled"] = [name for name in expand("unlabelled") if name not in taken]
    for role in ("dev", "test"):
        if both := [name for name in splits["train"] if name in splits[role]]:
            raise UserError(
                f"{', '.join(both)} of {where} would be a training split and a {role} split",
                remedy=f"name other splits for train or {role}",
            )
    return splits
