"""A folder of prepared data: where its files are, and what it knows of itself.

`data.json` is written by the stages: the corpus that the data are of, the prefix of file names, the
splits by role, and the size of the vocabulary. Only the standard library is imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvqkd.data.splits import ROLES, choose_splits
from mvqkd.errors import UserError
from mvqkd.storage.files import read_json, write_json


@dataclass(frozen=True)
class DataFolder:
    """Paths in a folder of prepared data, and its record.

    Attributes:
        root: `data/<recipe>`.
    """

    root: Path

    @property
    def manifests(self) -> Path:
        """Folder of the validated manifests."""
        return self.root / "manifests"

    @property
    def fbank(self) -> Path:
        """Folder of the cuts with features."""
        return self.root / "fbank"

    @property
    def musan_cuts(self) -> Path:
        """Manifest of noises with features."""
        return self.fbank / "musan_cuts.jsonl.gz"

    def manifest(self, kind: str, split: str) -> Path:
        """`recordings` or `supervisions` of a split."""
        return self.manifests / f"{self.prefix}_{kind}_{split}.jsonl.gz"

    def report(self, split: str) -> Path:
        """What the validation of a split left out."""
        return self.manifests / f"{self.prefix}_{split}.report.json"

    def cuts(self, split: str) -> Path:
        """Manifest of the cuts of a split, with features."""
        return self.fbank / f"{self.prefix}_cuts_{split}.jsonl.gz"

    def lang(self, vocab_size: int | None = None, labelled_hours: float = 0.0) -> Path:
        """Folder of the tokens.

        Args:
            vocab_size: number of tokens; None: as many as were prepared last.
            labelled_hours: audio whose transcripts they are made of; 0: all.

        Raises:
            UserError: none were prepared.
        """
        size = self.vocab_size if vocab_size is None else vocab_size
        hours = f"_{labelled_hours:.10g}h" if labelled_hours else ""
        return self.root / f"lang_bpe_{size}{hours}"

    @property
    def prefix(self) -> str:
        """Of the names of manifests.

        Raises:
            UserError: stage 1 has not come to its end.
        """
        prefix = self._known().get("prefix")
        if prefix is None:
            raise UserError(
                f"{self._path} does not record the prefix of file names", step="manifests"
            )
        return prefix

    @property
    def vocab_size(self) -> int:
        """Tokens that were prepared last.

        Raises:
            UserError: none were prepared.
        """
        size = self._known().get("vocab_size")
        if size is None:
            raise UserError(f"{self.root} has no tokens yet", step="tokens")
        return size

    def splits(self, patterns: Mapping[str, Iterable[str]] | None = None) -> dict[str, list[str]]:
        """By role, the splits that were prepared, or those of them that `patterns` name.

        Args:
            patterns: names or patterns of roles that shall have others than were prepared.

        Raises:
            UserError: stage 1 did not run, did not prepare such splits or none for training or dev;
                or as of `choose_splits`.
        """
        known, given = self._known(), patterns or {}
        record = known.get("splits")
        if record is None:
            raise UserError(f"{self._path} does not record the splits", step="manifests")
        prepared = [name for role in ROLES for name in record[role]]
        wanted = {role: list(given.get(role, ())) or record[role] for role in ROLES}
        found = choose_splits(wanted, prepared, self._path, remedy="prepare others")
        for role in ("train", "dev"):
            if not found[role]:
                raise UserError(
                    f"no {role} split has been prepared in {self.root}",
                    remedy=f"name splits for {role}",
                    step="manifests",
                )
        for role in ("train", "dev", "test"):
            if silent := [name for name in found[role] if name in record["unlabelled"]]:
                raise UserError(
                    f"{', '.join(silent)} of {self.root} has been prepared without transcripts",
                    remedy=f"name {','.join(found[role])} for {role}",
                    step="manifests",
                )
        return found

    def check_corpus(self, corpus_dir: Path) -> None:
        """Refuse a folder that was prepared from another corpus, whose splits would mix with those
        of this one.

        Raises:
            UserError: as above.
        """
        record = self._read()
        if record is not None and record.get("corpus") != self._corpus_name(corpus_dir):
            other = self.root / str(record.get("corpus"))
            raise UserError(
                f"{self.root} has been prepared from another corpus, {other}",
                remedy=f"take another folder, or rm -r {self.manifests} {self._path} and "
                "prepare it from this one",
                parameters=("data_dir",),
            )

    def record_splits(self, corpus_dir: Path, prefix: str, splits: Mapping[str, list[str]]) -> None:
        """Note what was prepared: the corpus, the prefix, and the splits by role."""
        self._note(
            corpus=self._corpus_name(corpus_dir),
            prefix=prefix,
            splits={role: list(splits.get(role, ())) for role in ROLES},
        )

    def record_vocab_size(self, vocab_size: int) -> None:
        """Note how many tokens were prepared."""
        self._note(vocab_size=vocab_size)

    @property
    def _path(self) -> Path:
        return self.root / "data.json"

    def _note(self, **facts: Any) -> None:
        before = self._read() or {}
        record = before | facts
        if record != before or not self._path.is_file():
            write_json(self._path, record)

    def _known(self) -> dict[str, Any]:
        record = self._read()
        if record is None:
            raise UserError(
                f"{self._path}, which says what was prepared, is missing", step="manifests"
            )
        return record

    def _read(self) -> dict[str, Any] | None:
        """None when stage 1 did not come to its end."""
        if self._path.is_file():
            return read_json(self._path, remedy="delete it", step="manifests")
        return self._read_old()

    def _read_old(self) -> dict[str, Any] | None:
        """What version 0.1.0 noted, in `manifests/parts.json`: neither prefix nor tokens."""
        path = self.manifests / "parts.json"
        if not path.is_file():
            return None
        old = read_json(path, remedy="delete it", step="manifests")
        splits = {role: old[role] for role in ROLES}
        names = "|".join(re.escape(name) for names in splits.values() for name in names)
        found = (
            re.fullmatch(rf"(.+)_(?:supervisions|recordings)_(?:{names})\.jsonl\.gz", file.name)
            for file in sorted(self.manifests.iterdir())
        )
        prefixes = {match[1] for match in found if match and match[1] != "musan"}
        sizes = {
            int(match[1])
            for folder in self.root.glob("lang_bpe_*")
            if (match := re.fullmatch(r"lang_bpe_(\d+)", folder.name))
        }
        record: dict[str, Any] = {"corpus": old["corpus"], "splits": splits}
        record |= {"prefix": prefixes.pop()} if len(prefixes) == 1 else {}
        return record | ({"vocab_size": sizes.pop()} if len(sizes) == 1 else {})

    def _corpus_name(self, corpus_dir: Path) -> str:
        """The same for all names of a corpus; in a data folder, also after that was moved."""
        corpus, home = corpus_dir.resolve(), self.root.resolve()
        if corpus.name == "LibriSpeech":
            corpus = corpus.parent
        return str(corpus.relative_to(home) if corpus.is_relative_to(home) else corpus)
