"""Names of files and utterances: how they are compared, and what they may hold."""

from __future__ import annotations

import unicodedata

# Line and paragraph separators, tabs and other controls: files of lines hold ids.
_BREAKS = ("Cc", "Zl", "Zp")


def canonical(name: str) -> str:
    """The same for all encodings of a name: file systems differ in how they compose accents
    (NFC)."""
    return unicodedata.normalize("NFC", name)


def printable(name: str) -> str:
    """A name that can be written, whatever bytes the file system or a manifest gave."""
    return "".join(
        repr(c)[1:-1] if unicodedata.category(c) in (*_BREAKS, "Cs") else c for c in name
    )


def is_utf8(name: str) -> bool:
    """Whether manifests can hold a name; the file system may give others."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def fault_of_id(name: str) -> str | None:
    """Why a name cannot be an utterance's id; None when it can."""
    if not is_utf8(name):
        return "name is not UTF-8"
    kinds = {unicodedata.category(character) for character in name}
    if kinds.intersection(_BREAKS):
        return "id with a line break, a tab or another control character"
    if name != name.strip() or not name:
        return "id that is empty, or begins or ends with a space"
    return None
