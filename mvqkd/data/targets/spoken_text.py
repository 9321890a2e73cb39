"""From the text that a teacher writes to the words that were spoken, as transcripts spell them.

Numbers become words by `num2words`, which is imported when they are met. Currency, years, times and
abbreviations are English; for other languages switch them off, or give a function of your own.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import re
import unicodedata
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from mvqkd.errors import UserError

_QUOTES = str.maketrans({mark: "'" for mark in "’‘‛ʼ`´"} | {mark: '"' for mark in "“”„«»"})
_AMOUNT = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"
_CURRENCIES = {
    "$": ("dollar", "dollars", "cent", "cents"),
    "€": ("euro", "euros", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
}
_ABBREVIATIONS = {
    "mr": "mister",
    "mrs": "missus",
    "dr": "doctor",
    "messrs": "messieurs",
    "prof": "professor",
    "capt": "captain",
    "lieut": "lieutenant",
    "col": "colonel",
    "gen": "general",
    "sgt": "sergeant",
    "rev": "reverend",
    "hon": "honorable",
    "st": "saint",
    "jr": "junior",
    "sr": "senior",
    "etc": "et cetera",
    "vs": "versus",
}
_SYMBOLS = {
    "%": " percent",
    "&": " and ",
    "+": " plus ",
    "=": " equals ",
    "@": " at ",
    "°": " degrees",
}
_ELIDED = ("'tis", "'twas", "'em", "'til", "'cause", "'round", "'twill", "'twould")


@dataclass(frozen=True)
class SpokenText:
    """A declared normalization: calling it with a text gives the normalized one.

    The function comes first, then Unicode, abbreviations, numbers and symbols, punctuation, case;
    in the end there is one space between words.
    """

    case: Literal["upper", "lower", "keep"] = "upper"
    """Of letters."""
    punctuation: Literal["remove", "keep"] = "remove"
    """`remove`: everything but letters, digits, and apostrophes within words becomes a space."""
    numbers: Literal["words", "keep"] = "words"
    """`words`: digits, ordinals, currency, years, times, and symbols such as % as they are read."""
    abbreviations: Literal["words", "keep"] = "words"
    """`words`: Mr. -> mister and the like (English)."""
    unicode: Literal["nfkc", "nfc", "ascii"] = "nfkc"
    """Normalization form; `ascii` takes marks off letters too."""
    language: str = "en"
    """Of numbers, as `num2words` names it."""
    function: str = ""
    """`MODULE:FUNCTION`, from text to text; empty: none."""

    def __call__(self, text: str) -> str:
        """Normalize a text.

        Raises:
            UserError: there is no such function, or it returns no text; `num2words` is missing, or
                does not know the language.
        """
        if self.function:
            changed = _import(self.function)(text)
            if not isinstance(changed, str):
                raise UserError(f"{self.function} returned {type(changed).__name__}, no text")
            text = changed
        text = unicodedata.normalize("NFC" if self.unicode == "nfc" else "NFKC", text)
        text = text.translate(_QUOTES)
        if self.unicode == "ascii":
            decomposed = unicodedata.normalize("NFKD", text)
            text = "".join(x for x in decomposed if not unicodedata.combining(x))
        if self.abbreviations == "words":
            text = _expand(text)
        if self.numbers == "words":
            text = _Numbers(self.language).spell(text)
        if self.punctuation == "remove":
            text = _without_punctuation(text)
        if self.case != "keep":
            text = text.upper() if self.case == "upper" else text.lower()
        return " ".join(text.split())

    def describe(self) -> dict[str, Any]:
        """All of it, for a file; JSON-able. Of a function, a digest of its source too."""
        described = asdict(self)
        if self.function:
            try:
                source = inspect.getsource(_import(self.function))
                described["function_sha256"] = hashlib.sha256(source.encode()).hexdigest()
            except (OSError, TypeError):  # not written in Python
                described["function_sha256"] = None
        return described


def _import(name: str) -> Callable[[str], str]:
    module, _, function = name.removeprefix("python:").partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"the function {name!r} cannot be imported: {error}",
            remedy="MODULE:FUNCTION, with the module's folder in PYTHONPATH",
        ) from error


def _expand(text: str) -> str:
    names = "|".join(_ABBREVIATIONS)

    def expand(match: re.Match[str]) -> str:
        return _ABBREVIATIONS[match[1].lower()]

    # With a full stop, or a title before a name.
    text = re.sub(rf"\b({names})\.", expand, text, flags=re.IGNORECASE)
    return re.sub(r"\b(Mr|Mrs|Dr)(?=\s+[A-Z])", expand, text)


def _without_punctuation(text: str) -> str:
    kept = []
    for word in text.replace("-", " ").split():
        elided = word.lower().startswith(_ELIDED)
        word = re.sub(r"(?<!\w)'|'(?!\w)", " ", word)
        word = "".join(x if x == "'" or x.isalnum() or _is_mark(x) else " " for x in word)
        kept.append("'" + word.strip() if elided else word)
    return " ".join(kept)


def _is_mark(x: str) -> bool:
    return unicodedata.category(x).startswith("M")


class _Numbers:
    """Numbers in a text, in words."""

    def __init__(self, language: str) -> None:
        self._language = language

    def spell(self, text: str) -> str:
        if self._language.startswith("en"):
            text = self._english(text)
        for symbol, word in _SYMBOLS.items() if self._language.startswith("en") else ():
            text = text.replace(symbol, word)
        text = re.sub(rf"(?<!\w)-(?={_AMOUNT})", self._minus(), text)
        text = re.sub(_AMOUNT, lambda match: f" {self._cardinal(match[0])} ", text)
        # Digits of other scripts: one by one.
        return re.sub(r"\d", lambda match: f" {self._words(int(match[0]), 'cardinal')} ", text)

    def _english(self, text: str) -> str:
        text = re.sub(rf"([$€£])\s?({_AMOUNT})(\s(?:hundred|thousand|[mb]illion|trillion))?",
                      self._currency, text)  # fmt: skip
        text = re.sub(r"\b(\d+(?:,\d{3})*)(st|nd|rd|th)\b", self._ordinal, text, flags=re.I)
        text = re.sub(r"\b(\d{1,2}):(\d{2})\b", self._time, text)
        text = re.sub(r"\b(1\d|20)(\d0)'?s\b", self._decade, text)
        text = re.sub(r"\b1/2\b", "one half", text)
        # Not part of a longer number, such as 1234.5 or 1,860.
        return re.sub(r"(?<![\d.,])(1[1-9]\d\d|20[1-9]\d)(?![\d]|[.,]\d)", self._year, text)

    def _currency(self, match: re.Match[str]) -> str:
        one, many, cent, cents = _CURRENCIES[match[1]]
        amount, scale = match[2].replace(",", ""), match[3]
        if scale:
            return f"{self._cardinal(amount)}{scale} {many}"
        whole, _, part = amount.partition(".")
        words = []
        if int(whole) or not part:
            words.append(f"{self._cardinal(whole)} {one if int(whole) == 1 else many}")
        if part and (small := int(part[:2].ljust(2, "0"))):
            words.append(f"{self._cardinal(str(small))} {cent if small == 1 else cents}")
        return f" {' and '.join(words)} "

    def _ordinal(self, match: re.Match[str]) -> str:
        return self._words(int(match[1].replace(",", "")), "ordinal")

    def _time(self, match: re.Match[str]) -> str:
        hour, minute = int(match[1]), int(match[2])
        said = self._cardinal(str(hour))
        if minute == 0:
            return f"{said} o'clock"
        return f"{said} {'oh ' if minute < 10 else ''}{self._cardinal(str(minute))}"

    def _year(self, match: re.Match[str]) -> str:
        return self._words(int(match[1]), "year")

    def _decade(self, match: re.Match[str]) -> str:
        words = self._words(int(match[1] + match[2]), "year")
        return re.sub(r"y$", "ies", words) if words.endswith("y") else f"{words}s"

    def _cardinal(self, text: str) -> str:
        whole, point, part = text.replace(",", "").partition(".")
        words = self._words(int(whole), "cardinal")
        if not point:
            return words
        digits = [self._words(int(digit), "cardinal") for digit in part]
        return " ".join([words, self._point(), *digits])

    def _point(self) -> str:
        """The word between the whole and the digits of a fraction."""
        return self._words(0.5, "cardinal").split()[1]

    def _minus(self) -> str:
        return self._words(-1, "cardinal").split()[0] + " "

    def _words(self, number: float, kind: str) -> str:
        try:
            from num2words import num2words
        except ImportError as error:
            raise UserError(
                "numbers in a teacher's text are spelled out by num2words, which is missing",
                remedy="pip install 'mvqkd[hf]', or keep numbers as they are",
            ) from error
        try:
            words = num2words(number, to=kind, lang=self._language)
        except NotImplementedError as error:
            raise UserError(
                f"num2words does not know numbers ({kind}) of the language {self._language!r}",
                remedy="name another language, or keep numbers as they are",
            ) from error
        except OverflowError:  # more digits than there are names for
            return " ".join(self._words(int(digit), "cardinal") for digit in str(number))
        return words.replace(",", "").replace("-", " ")
