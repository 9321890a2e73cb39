"""Cuts that losses cannot use: stage 3 lists them, loaders leave them out."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mvqkd.errors import UserError
from mvqkd.storage.files import read_json
from mvqkd.storage.jsonl import stem


def excluded_path(lang_dir: str | Path, cuts_path: str | Path) -> Path:
    """Where the excluded cuts of a manifest `<prefix>_cuts_<split>.jsonl.gz` are listed."""
    split = stem(Path(cuts_path)).split("_cuts_")[-1]
    return Path(lang_dir) / f"excluded_{split}.txt"


def excluded_line(utterance: str, reason: str, *, ctc_only: bool = False) -> str:
    """A line of such a list.

    Args:
        utterance: its id.
        reason: for people.
        ctc_only: it is the CTC loss alone that cannot use it.
    """
    return f"{utterance}\t{reason}" + ("\tctc" if ctc_only else "") + "\n"


def read_excluded(lang_dir: str | Path, cuts_path: str | Path, *, ctc: bool = False) -> set[str]:
    """Ids of the cuts that losses leave out.

    Args:
        lang_dir: folder of the lists.
        cuts_path: manifest of cuts.
        ctc: whether there is a CTC loss.

    Raises:
        UserError: the tokens of this manifest were not checked, or the list is damaged.
    """
    path = excluded_path(lang_dir, cuts_path)
    if not path.is_file():
        raise UserError(
            f"{path} is missing: the tokens of {cuts_path} were not checked against its frames",
            step="tokens",
        )
    text = path.read_bytes()
    report = path.with_suffix(".report.json")
    if report.is_file():
        known = read_json(report, remedy="delete it", step="tokens").get("sha256")
        if known and hashlib.sha256(text).hexdigest() != known:
            raise UserError(
                f"{path} is damaged: it is not what was written", remedy="delete it", step="tokens"
            )
    lines = text.decode().split("\n")
    fields = [line.split("\t") for line in lines if line.strip()]
    return {utterance for utterance, *more in fields if ctc or more[1:] != ["ctc"]}
