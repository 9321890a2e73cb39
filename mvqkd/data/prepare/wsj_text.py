"""Wall Street Journal's detailed transcripts (`*.dot`) as words to be spelled."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

# [loud_breath], [<door_slam] and [door_slam>] in a word before or after, [phone_ring/] to
# [/phone_ring] around words, `~` for a recording that is cut off, `.` for a pause.
_NOTE = re.compile(r"\[[^\]\s]*\]|~")
_LINE = re.compile(r"(.*)\((\w+)\)\s*")
_MARKS = ".-\"%&(){},:;?!/#+*$'"
"""Signs that stand before their own name where punctuation is read aloud: `,COMMA`, `%PERCENT`."""
_SPELLED = re.compile(r"[^A-Z'.-]")


def normalize_dot(text: str) -> str:
    """The words of a transcript, of the letters A to Z, apostrophe, full stop and hyphen.

    As in Kaldi's recipe words are in capitals, notes of noises and pauses are left out, and what
    was deleted verbally (`<and>`) is kept, since it was said. Unlike there, noises leave no word
    `<NOISE>`, which is not scored, and punctuation that is read aloud is its name alone, `COMMA`
    and not `,COMMA`.

    >>> normalize_dot(r"Mr\\. Roe said \\,comma [loud_breath] <and> twenty \\%percent ~")
    'MR. ROE SAID COMMA AND TWENTY PERCENT'
    """
    text = _NOTE.sub(" ", text.replace("\\", "")).upper()
    return " ".join(filter(None, map(_word, text.split())))


def _word(word: str) -> str:
    # An apostrophe begins words, too: 'EM.
    named = word.lstrip(_MARKS if word.endswith("QUOTE") else _MARKS.replace("'", ""))
    word = _SPELLED.sub("", named)
    return word if any(letter.isalpha() for letter in word) else ""


def read_dots(paths: Iterable[Path]) -> dict[str, str]:
    """Normalized transcripts by utterance, in small letters, of files of lines
    `<transcript> (<utterance>)`; of an utterance in several files that of the last one."""
    texts: dict[str, str] = {}
    for path in paths:
        for line in path.read_text(encoding="latin-1").splitlines():
            if match := _LINE.fullmatch(line):
                texts[match[2].lower()] = normalize_dot(match[1])
    return texts
