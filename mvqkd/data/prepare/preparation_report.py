"""What preparation left out or changed, utterance by utterance."""

from __future__ import annotations

import logging
from collections import defaultdict
from pathlib import Path
from typing import Any

from mvqkd.errors import UserError
from mvqkd.storage.files import read_json, write_json

_SHOWN = 5


class PreparationReport:
    """Collects problems by kind, and is written as JSON beside what was prepared.

    Args:
        name: what is prepared, for the log.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._left_out: dict[str, dict[str, str]] = defaultdict(dict)
        self._changed: dict[str, dict[str, str]] = defaultdict(dict)
        self._not_used: dict[str, list[str]] = defaultdict(list)

    def leave_out(self, utterance: str, kind: str, detail: str = "") -> None:
        """Note that an utterance is left out, and why: a kind that is counted, and details."""
        self._left_out[kind][utterance] = detail

    def change(self, utterance: str, kind: str, detail: str = "") -> None:
        """Note that an utterance is kept, but not as it was."""
        self._changed[kind][utterance] = detail

    def not_used(self, file: str, why: str) -> None:
        """Note a file that belongs to no utterance."""
        self._not_used[why].append(file)

    def check(self, *, strict: bool) -> None:
        """Log the counts.

        Raises:
            UserError: `strict`, and something was left out.
        """
        for kind, utterances in sorted(self._changed.items()):
            logging.warning("%s: %s: %s", self.name, kind, _summary(utterances))
        for kind, utterances in sorted(self._left_out.items()):
            logging.warning("%s: left out, %s: %s", self.name, kind, _summary(utterances))
        for why, files in sorted(self._not_used.items()):
            logging.warning(
                "%s: files not used, %s: %s", self.name, why, _summary(dict.fromkeys(files, ""))
            )
        if strict and self._left_out:
            problems = "; ".join(
                f"{kind}: {_summary(utterances)}"
                for kind, utterances in sorted(self._left_out.items())
            )
            raise UserError(
                f"{self.name} has invalid utterances: {problems}",
                remedy="mend them, or leave them out",
                parameters=("strict",),
            )

    def write(self, path: Path, **facts: Any) -> None:
        """Write facts, counts and ids as JSON, atomically."""
        write_json(
            path,
            {"name": self.name}
            | facts
            | {"left_out": _table(self._left_out), "changed": _table(self._changed)}
            | {"not_used": {why: sorted(files) for why, files in sorted(self._not_used.items())}},
        )


def read_report(path: Path) -> dict[str, Any]:
    """What `PreparationReport.write` wrote; empty when there is none.

    Raises:
        UserError: it is damaged. What it says of finished work is not known then, and to go on as
            if there were none may be to do other work over it.
    """
    if not path.is_file():
        return {}
    return read_json(path, remedy="put a copy of it back; or delete it, and run the command again")


def _summary(utterances: dict[str, str]) -> str:
    shown = ", ".join(
        f"{utterance} ({detail})" if detail else utterance
        for utterance, detail in sorted(utterances.items())[:_SHOWN]
    )
    more = len(utterances) - _SHOWN
    return f"{len(utterances)}: {shown}" + (f" and {more} more" if more > 0 else "")


def _table(kinds: dict[str, dict[str, str]]) -> dict[str, Any]:
    return {
        kind: {"count": len(utterances), "utterances": dict(sorted(utterances.items()))}
        for kind, utterances in sorted(kinds.items())
    }
