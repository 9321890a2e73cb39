"""The text of transcripts: one normalization, for training and for references alike."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

NORMALIZATIONS: dict[str, Callable[[str], str]] = {
    "identity": str,
    "nfc": lambda text: unicodedata.normalize("NFC", text),
    "nfkc": lambda text: unicodedata.normalize("NFKC", text),
}
"""What may be asked for, by name (Unicode Standard Annex 15)."""


def normalize(text: str, name: str) -> str:
    """A transcript with one space between words, normalized.

    Args:
        text: as the corpus has it.
        name: key of `NORMALIZATIONS`.
    """
    return " ".join(NORMALIZATIONS[name](text).split())


def is_composed(text: str | None) -> bool:
    """Whether a transcript is in Unicode's form NFC, in which equal text is equal characters."""
    return unicodedata.is_normalized("NFC", text or "")
