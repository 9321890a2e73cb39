from __future__ import annotations

from collections import Counter

import pytest

from mvqkd.data.synthetic.corpus import CorpusConfig, plan, split_name
from mvqkd.data.synthetic.sentences import transcript
from mvqkd.data.synthetic.spelling import DIGITS, LETTERS, MAX_ITEMS, MIN_ITEMS, Speller
from mvqkd.errors import UserError


def test_lines_are_letters_before_digits() -> None:
    lines = Speller("1").story(400)
    digits = {digit.upper() for digit in DIGITS}
    kinds: Counter[str] = Counter()
    for line in lines:
        words = transcript(line).split()
        assert MIN_ITEMS <= len(words) <= MAX_ITEMS and set(words) <= digits | set(LETTERS)
        shape = "".join("d" if word in digits else "l" for word in words)
        assert shape == "".join(sorted(shape, reverse=True))
        kinds["".join(sorted(set(shape)))] += 1
    assert kinds.keys() == {"d", "l", "dl"} and min(kinds.values()) > 80
    assert len(set(map(transcript, lines))) == len(lines)
    assert Speller("1").story(5) == lines[:5] != Speller("2").story(5)


def test_a_vocabulary_is_kept_to() -> None:
    few = Speller("1", vocabulary={"A", "B", "TWO"}).story(20)
    assert {word for line in few for word in transcript(line).split()} == {"A", "B", "TWO"}
    letters = Speller("1", vocabulary={"A", "B"}, avoid={"A A A"}).story(20)
    assert "A A A" not in map(transcript, letters)
    with pytest.raises(UserError, match="no new line"):
        Speller("1", vocabulary={"A"}).story(20)


def test_a_corpus_of_them_is_in_splits_of_its_own() -> None:
    chapters = plan(CorpusConfig(train_speakers=3, text="spelling"))
    texts = {split: set() for split in ("train", "dev", "test")}
    for chapter in chapters:
        assert chapter.directory.parts[0] == split_name(chapter.split, "spelling")
        assert chapter.directory.parts[0] == f"{chapter.split}-spelling"
        texts[chapter.split] |= set(map(transcript, chapter.sentences))
    words = {
        split: {word for line in lines for word in line.split()} for split, lines in texts.items()
    }
    assert words["dev"] | words["test"] <= words["train"]
    assert not texts["train"] & (texts["dev"] | texts["test"])
