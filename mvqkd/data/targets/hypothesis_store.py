"""Files of N-best hypotheses: gzipped JSON lines that any program reads.

The first line is an object with `format` and what the hypotheses are of (`HypothesesInfo`), then a
line for each utterance (`UtteranceHypotheses`), and in the end one with their number and the
SHA-256 of all lines before.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from mvqkd.data.targets.hypothesis_records import UtteranceHypotheses
from mvqkd.errors import UserError
from mvqkd.storage.files import atomic_path
from mvqkd.storage.ragged import shard_path

ENDING = "jsonl.gz"
_FORMAT = "mvqkd-hypotheses-1"
_SHARD = re.compile(r"(?P<name>.+)-\d{5}-of-(?P<count>\d{5})\.jsonl\.gz")
_REMEDY = "delete it"
_FAULTS = (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, AttributeError)


@dataclass(frozen=True)
class HypothesesInfo:
    """What hypotheses are of."""

    teacher: str
    """URI."""
    search: dict[str, Any]
    """Settings of the teacher's search."""
    normalization: dict[str, Any]
    """From the teacher's text to the student's, see `SpokenText`."""
    limits: dict[str, float]
    """See `TextLimits`."""
    tokenizer: str | None = None
    """SHA-256 of the `bpe.model` that the tokens are of; None: there are no tokens."""

    def same_texts(self, other: HypothesesInfo) -> bool:
        """Whether the texts are made in the same way; tokens follow from texts."""
        return replace(self, tokenizer=None) == replace(other, tokenizer=None)


class HypothesesWriter:
    """Write one file, utterance by utterance; it appears under its name when it is complete. A
    context manager."""

    def __init__(self, path: Path, info: HypothesesInfo) -> None:
        self._atomic = atomic_path(path)
        self._info = info
        self._digest = hashlib.sha256()
        self._count = 0

    def __enter__(self) -> HypothesesWriter:
        partial = self._atomic.__enter__()
        try:
            self._raw = open(partial, "wb")
            # Neither time nor name in the header: the same contents give the same bytes.
            self._file = gzip.GzipFile("", "wb", 6, self._raw, mtime=0)
            self._line({"format": _FORMAT, **asdict(self._info)})
        except BaseException as error:
            self._atomic.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def write(self, utterance: UtteranceHypotheses) -> None:
        """Append an utterance."""
        self._line(utterance.to_dict())
        self._count += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._line({"utterances": self._count, "sha256": self._digest.hexdigest()})
            self._file.close()
            self._raw.close()
        except BaseException as failure:
            self._atomic.__exit__(type(failure), failure, failure.__traceback__)
            raise
        self._atomic.__exit__(kind, error, trace)

    def _line(self, values: dict[str, Any]) -> None:
        line = json.dumps(values, ensure_ascii=False).encode() + b"\n"
        self._digest.update(line)
        self._file.write(line)


class HypothesisStore:
    """Read the hypotheses of a file, or of a folder of shards.

    Every file is read and verified to its end before the first of its utterances is given.

    Attributes:
        path: file or folder.
        files: all of them.
        info: of all files.

    Raises:
        UserError: a file is missing or damaged, or they are of different teachers or settings.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.files = _find(self.path)
        infos = [_head(file) for file in self.files]
        self.info = infos[0]
        for file, info in zip(self.files, infos, strict=True):
            if info != self.info:
                raise UserError(
                    f"{file} is of another run than {self.files[0]}: {info}, not {self.info}",
                    remedy=f"move one of them away from {self.path}",
                )

    def __iter__(self) -> Iterator[UtteranceHypotheses]:
        """All utterances.

        Raises:
            UserError: a file is damaged, or an utterance is there twice.
        """
        seen: set[str] = set()
        for file in self.files:
            for utterance in _read(file):
                if utterance.id in seen:
                    raise UserError(f"{self.path} has the utterance {utterance.id} twice")
                seen.add(utterance.id)
                yield utterance

    @property
    def num_bytes(self) -> int:
        """On disk."""
        return sum(file.stat().st_size for file in self.files)

    def verify(self, ids: Iterable[str]) -> list[UtteranceHypotheses]:
        """Read everything, and return it.

        Raises:
            UserError: it is not of exactly these utterances.
        """
        found = list(self)
        if differing := {utterance.id for utterance in found} ^ set(ids):
            raise UserError(
                f"{self.path} is not of the utterances of the cuts: {len(differing)} are in one of "
                f"them alone, as {min(differing)}",
                remedy=f"the cuts have changed: move {self.path} away, or name another folder",
                step="hypotheses",
            )
        return found


def _find(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    files = sorted(file for file in path.glob(f"*.{ENDING}") if not file.name.startswith("."))
    if not files:
        what = "has no hypotheses" if path.is_dir() else "is missing"
        raise UserError(f"{path} {what}", step="hypotheses")
    counts: dict[str, int] = {}
    for file in files:
        shard = _SHARD.fullmatch(file.name)
        if shard is None or counts.setdefault(shard["name"], int(shard["count"])) != int(
            shard["count"]
        ):
            raise UserError(
                f"{path} has {file.name}, which is no shard of the others",
                remedy="move it away",
            )
    wanted = [
        shard_path(path, name, index, count, ENDING)
        for name, count in counts.items()
        for index in range(count)
    ]
    if missing := sorted(set(wanted) - set(files)):
        raise UserError(
            f"{path} lacks {len(missing)} of {len(wanted)} shards, as {missing[0].name}",
            step="hypotheses",
        )
    return files


def _damaged(path: Path, reason: object) -> UserError:
    return UserError(f"{path} is damaged: {reason}", remedy=_REMEDY, step="hypotheses")


def _head(path: Path) -> HypothesesInfo:
    try:
        with gzip.open(path, "rb") as file:
            values = json.loads(file.readline())
        if values.pop("format") != _FORMAT:
            raise ValueError(f"it is no {_FORMAT}")
        return HypothesesInfo(**values)
    except _FAULTS as error:
        raise _damaged(path, error) from None


def _read(path: Path) -> list[UtteranceHypotheses]:
    digest = hashlib.sha256()
    found: list[UtteranceHypotheses] = []
    end: dict[str, Any] = {}
    try:
        with gzip.open(path, "rb") as file:
            digest.update(file.readline())
            for line in file:
                values = json.loads(line)
                if "sha256" in values:
                    end = values
                    break
                digest.update(line)
                found.append(UtteranceHypotheses.from_dict(values))
            if file.read(1):
                raise ValueError("lines follow its end")
    except _FAULTS as error:
        raise _damaged(path, error) from None
    if end != {"utterances": len(found), "sha256": digest.hexdigest()}:
        raise _damaged(path, "it is not whole, or not what was written")
    return found
