"""Names of a corpus's parts, and what each is for. Only the standard library is imported, so that
programs can refuse a wrong name at once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from mvqkd.errors import UserError
from mvqkd.files import write_json

ROLES = ("train", "dev", "test", "unlabelled")
"""What a part is for; unlabelled audio is trained on too."""


def expand_parts(
    patterns: Iterable[str], available: Iterable[str], where: object, *, remedy: str
) -> list[str]:
    """Names of parts that match names or patterns (`train-*`), in the order of the patterns.

    Args:
        patterns: a name must be there; a pattern may match nothing, unless all do.
        available: names of parts.
        where: they are, for the error.
        remedy: beside naming another part.

    Raises:
        UserError: as above.
    """
    patterns, available = list(patterns), sorted(available)
    if available:
        remedy = f"name one of: {', '.join(available)}; or: {remedy}"
    parts: dict[str, None] = {}
    for pattern in patterns:
        found = [name for name in available if fnmatchcase(name, pattern)]
        if not found and not set(pattern) & set("*?["):
            raise UserError(
                f"there is no part {pattern} in {where}",
                remedy=remedy,
            )
        parts.update(dict.fromkeys(found))
    if patterns and not parts:
        raise UserError(
            f"no part in {where} matches {' '.join(patterns)}",
            remedy=remedy,
        )
    return list(parts)


def choose_parts(
    patterns: Mapping[str, Iterable[str]], available: Iterable[str], where: object, *, remedy: str
) -> dict[str, list[str]]:
    """The parts of every role, none of them both trained on and evaluated on.

    Args:
        patterns: names or patterns by role, see `expand_parts`; those of test may match nothing,
            since small corpora have no such part.
        available: names of parts.
        where: they are, for the error.
        remedy: beside naming another part.

    Returns:
        By role; test without the parts of dev, unlabelled without those of any other role.

    Raises:
        UserError: a name or all patterns of a role match nothing, or training parts are dev or test
            parts too.
    """
    wanted = {role: list(patterns.get(role, ())) for role in ROLES}
    available = list(available)

    def expand(*roles: str) -> list[str]:
        asked = [pattern for role in roles for pattern in wanted[role]]
        return expand_parts(asked, available, where, remedy=remedy)

    parts = {"train": expand("train"), "dev": expand("dev")}
    parts["test"] = [name for name in expand("dev", "test") if name not in parts["dev"]]
    taken = {name for names in parts.values() for name in names}
    parts["unlabelled"] = [name for name in expand("unlabelled") if name not in taken]
    for role in ("dev", "test"):
        if both := [name for name in parts["train"] if name in parts[role]]:
            raise UserError(
                f"{', '.join(both)} of {where} would be a training part and a {role} part",
                remedy=f"other names or patterns for --train-parts or --{role}-parts",
            )
    return parts


def stored_parts(folder: Path, prefix: str, kind: str) -> list[str]:
    """Parts with a file `<prefix>_<kind>_<part>.jsonl.gz`, without leftovers of earlier runs.

    Args:
        folder: `manifests` or `fbank` of a data folder.
        prefix: of the files' names.
        kind: `supervisions` or `cuts`.
    """
    start, end = f"{prefix}_{kind}_", ".jsonl.gz"
    names = [path.name[len(start) : -len(end)] for path in folder.glob(f"{start}*{end}")]
    record = _read_record(folder.parent)
    if record is None:  # of a data folder from before there were records
        return names
    current = {name for role in ROLES for name in record[role]}
    return [name for name in names if name in current]


def manifest_parts(patterns: Iterable[str], manifest_dir: Path, prefix: str) -> list[str]:
    """`expand_parts` for the parts that stage 1 prepared."""
    available = stored_parts(manifest_dir, prefix, "supervisions")
    where = manifest_dir / f"{prefix}_supervisions_*.jsonl.gz"
    return expand_parts(patterns, available, where, remedy="./run.sh --stage 1 --stop-stage 1")


def check_corpus(data_dir: Path, corpus_dir: Path) -> None:
    """Refuse a data folder that was prepared from another corpus, whose parts would mix with those
    of this one.

    Raises:
        UserError: as above.
    """
    record = _read_record(data_dir)
    if record is not None and record["corpus"] != _corpus_name(data_dir, corpus_dir):
        raise UserError(
            f"{data_dir} has been prepared from another corpus, {data_dir / record['corpus']}",
            remedy=f"take another --data-dir, or rm -r {data_dir / 'manifests'} and prepare it "
            "from this one",
        )


def record_parts(data_dir: Path, corpus_dir: Path, parts: Mapping[str, list[str]]) -> None:
    """Write what stage 1 prepared: `<data_dir>/manifests/parts.json`, the corpus and `parts` by
    role."""
    record = {"corpus": _corpus_name(data_dir, corpus_dir), **parts}
    if record != _read_record(data_dir):
        write_json(_record_path(data_dir), record)


def recorded_parts(data_dir: Path, patterns: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """By role, the parts that stage 1 prepared, or those of them that `patterns` name.

    Args:
        data_dir: prepared data.
        patterns: names or patterns of roles that shall have others than in stage 1.

    Raises:
        UserError: stage 1 did not run, did not prepare such parts or none for training or dev; or
            as of `choose_parts`.
    """
    record, path = _read_record(data_dir), _record_path(data_dir)
    again = "./run.sh --stage 1 --stop-stage 1"
    if record is None:
        raise UserError(f"{path}, the list of the prepared parts, is missing", remedy=again)
    prepared = [name for role in ROLES for name in record[role]]
    wanted = {role: patterns.get(role) or record[role] for role in ROLES}
    parts = choose_parts(wanted, prepared, path, remedy=again)
    for role in ("train", "dev"):
        if not parts[role]:
            raise UserError(
                f"no {role} part has been prepared in {data_dir}",
                remedy=f"{again} --{role}-parts NAME",
            )
    for role in ("train", "dev", "test"):
        if silent := [name for name in parts[role] if name in record["unlabelled"]]:
            raise UserError(
                f"{', '.join(silent)} of {data_dir} has been prepared without transcripts",
                remedy=f"{again} --{role}-parts {','.join(parts[role])}",
            )
    return parts


def _record_path(data_dir: Path) -> Path:
    return data_dir / "manifests" / "parts.json"


def _read_record(data_dir: Path) -> dict | None:
    """`corpus`, and names of parts by role; None when stage 1 did not come to its end."""
    path = _record_path(data_dir)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _corpus_name(data_dir: Path, corpus_dir: Path) -> str:
    """The same for all names of a corpus; in a data folder, also after that was moved."""
    corpus, home = corpus_dir.resolve(), data_dir.resolve()
    if corpus.name == "LibriSpeech":
        corpus = corpus.parent
    return str(corpus.relative_to(home) if corpus.is_relative_to(home) else corpus)
