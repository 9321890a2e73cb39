"""Spelled letters and digits, as addresses and number plates are read out: another domain than
the sentences of `StoryWriter`, such as that of AN4."""

from __future__ import annotations

import random
from collections.abc import Set as AbstractSet

from mvqkd.data.synthetic.sentences import transcript
from mvqkd.errors import UserError

# Not Z, which the voices read in two ways, nor zero, for which O is read.
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXY"
DIGITS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
MIN_ITEMS, MAX_ITEMS = 3, 7
_ATTEMPTS = 2000


class Speller:
    """Writes letters, digits, and letters before digits, with commas between them.

    No two lines of a writer have the same transcript.

    Args:
        seed: everything that is written is a function of this, and of the order of the calls.
        avoid: transcripts that are never written.
        vocabulary: capitalized items to keep to; all by default.
    """

    def __init__(
        self,
        seed: str,
        *,
        avoid: AbstractSet[str] = frozenset(),
        vocabulary: AbstractSet[str] | None = None,
    ) -> None:
        self._random = random.Random(seed)
        self._written = set(avoid)
        self._letters, self._digits = (
            [item for item in items if vocabulary is None or item.upper() in vocabulary]
            for items in (LETTERS, DIGITS)
        )

    def story(self, length: int) -> list[str]:
        """Return `length` lines with punctuation.

        Raises:
            UserError: no further line can be found within the vocabulary.
        """
        return [self._new_line() for _ in range(length)]

    def _new_line(self) -> str:
        for _ in range(_ATTEMPTS):
            count = self._random.randint(MIN_ITEMS, MAX_ITEMS)
            num_letters = self._random.choice((0, count, count // 2))
            items = self._draw(self._letters, num_letters)
            items += self._draw(self._digits, count - num_letters)
            # With commas, so that espeak-ng reads no letter as a word: A.
            line = ", ".join(items) + "."
            if len(items) == count and transcript(line) not in self._written:
                self._written.add(transcript(line))
                return line
        raise UserError(
            f"no new line in {_ATTEMPTS} attempts within the words of the training split",
            remedy="ask for more training utterances, or for fewer of dev and test",
        )

    def _draw(self, items: list[str], count: int) -> list[str]:
        return self._random.choices(items, k=count) if items else []
