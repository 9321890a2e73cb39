"""Sentences of the synthetic corpus: random, grammatical, with every word used about equally."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Set as AbstractSet

from mvqkd.data.synthetic.grammar import LEXICON, MEN, RULES, WOMEN
from mvqkd.errors import UserError

MIN_WORDS, MAX_WORDS = 3, 14
_NAMES = frozenset(LEXICON["NAME"].split())
_PROPER = _NAMES | frozenset(LEXICON["DAY"].split()) | {"i"}
_VOWEL_LETTERS = tuple("aeiou")
# Many sentences are short: a model finds out from them which sounds make which words.
_LONGEST = (5, 7, 10, MAX_WORDS)
_ATTEMPTS = 2000
_CANDIDATES = 10


def transcript(sentence: str) -> str:
    """Return the transcript of a sentence as LibriSpeech writes it: capitals, no punctuation.

    >>> transcript("Yesterday, Anna found a key.")
    'YESTERDAY ANNA FOUND A KEY'
    """
    return " ".join("".join(c for c in sentence if c.isalpha() or c == " ").upper().split())


class StoryWriter:
    """Writes stories: runs of sentences about one person.

    Of a few random words that fit, the least used so far is taken; and of a few random sentences
    the one whose words are needed most. So all words are used about as often as grammar allows, and
    sentences stay unpredictable. No two sentences of a writer have the same transcript.

    Args:
        seed: everything the writer writes is a function of this, and of the order of its calls.
        avoid: transcripts that are never written.
        vocabulary: capitalized words to keep to; all by default.
    """

    def __init__(
        self,
        seed: str,
        *,
        avoid: AbstractSet[str] = frozenset(),
        vocabulary: AbstractSet[str] | None = None,
    ) -> None:
        self._random = random.Random(seed)
        self._used: Counter[str] = Counter()
        self._written = set(avoid)
        self._vocabulary = vocabulary
        self._words = {
            symbol: [w for w in words.split() if vocabulary is None or w.upper() in vocabulary]
            or words.split()  # sentences with these are refused later
            for symbol, words in LEXICON.items()
        }

    def story(self, length: int) -> list[str]:
        """Return `length` sentences with punctuation, about one person.

        Raises:
            UserError: no further sentence can be found within the vocabulary.
        """
        hero = self._draw("NAME")
        return [self._new_sentence(hero) for _ in range(length)]

    def _new_sentence(self, hero: str) -> str:
        people = _cast(hero)
        longest = self._random.choice(_LONGEST)
        found: dict[str, str] = {}
        for _ in range(_ATTEMPTS):
            sentence = _write(self._expand("S", people))
            text = transcript(sentence)
            if self._acceptable(text, longest):
                found[text] = sentence
            if len(found) == _CANDIDATES:
                break
        if not found:
            raise UserError(
                f"no new sentence in {_ATTEMPTS} attempts within the words of the training split",
                remedy="ask for more training utterances, or for fewer of dev and test",
            )
        text = max(found, key=self._need)
        self._written.add(text)
        self._used.update(text.split())
        return found[text]

    def _acceptable(self, text: str, longest: int) -> bool:
        words = text.split()
        # `the box and the box`: a content word twice in a sentence is not what people write
        repeated = any(n > 1 and word in _CONTENT for word, n in Counter(words).items())
        return (
            MIN_WORDS <= len(words) <= longest
            and not repeated
            and text not in self._written
            and (self._vocabulary is None or self._vocabulary >= set(words))
        )

    def _need(self, text: str) -> float:
        """How much a sentence would do for the words that are rare so far; the root lets short
        sentences win as well."""
        words = text.split()
        return sum(1 / (1 + self._used[word]) ** 2 for word in words) / len(words) ** 0.5

    def _expand(self, symbol: str, people: dict[str, str]) -> list[str]:
        if symbol in people:
            return [people[symbol]]
        if symbol in self._words:
            return [self._draw(symbol)]
        if symbol not in RULES:
            return [symbol]
        alternatives = [_weighted(rule) for rule in RULES[symbol]]
        (rule,) = self._random.choices(
            [rule for _, rule in alternatives], [weight for weight, _ in alternatives]
        )
        return [word for token in rule.split() for word in self._expand(token, people)]

    def _draw(self, symbol: str) -> str:
        words = self._words[symbol]
        drawn = self._random.sample(words, min(len(words), 3))
        return min(drawn, key=lambda word: self._used[word.upper()])


_CONTENT = frozenset(
    word.upper()
    for symbol, words in LEXICON.items()
    if symbol not in {"AT", "ON", "TOWARD", "MODAL", "AFTER", "BECAUSE", "MANY", "HOW"}
    for word in words.split()
)


def _cast(hero: str) -> dict[str, str]:
    if hero in WOMEN.split():
        return {"HERO": hero, "SHE": "she", "HER": "her"}
    assert hero in MEN.split()
    return {"HERO": hero, "SHE": "he", "HER": "his"}


def _weighted(rule: str) -> tuple[int, str]:
    weight, colon, rest = rule.partition(": ")
    return (int(weight), rest) if colon else (1, rule)


def _write(tokens: list[str]) -> str:
    """Join tokens: a or an, capitals, punctuation against the word before."""
    written: list[str] = []
    for token, following in zip(tokens, [*tokens[1:], ""], strict=True):
        if token in {",", ".", "?"}:
            written[-1] += token
        elif token == "a" and following.startswith(_VOWEL_LETTERS):
            written.append("an")
        else:
            written.append(token.capitalize() if token in _PROPER else token)
    written[0] = written[0][0].upper() + written[0][1:]
    return " ".join(written)
