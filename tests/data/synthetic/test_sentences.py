from __future__ import annotations

import re
from collections import Counter

import pytest

from mvqkd.data.synthetic.corpus import CorpusConfig, plan
from mvqkd.data.synthetic.grammar import LEXICON, RULES
from mvqkd.data.synthetic.sentences import StoryWriter, transcript
from mvqkd.errors import UserError


def tokens() -> list[str]:
    rules = [rule for alternatives in RULES.values() for rule in alternatives]
    return [re.sub(r"^\d+:$", "", token) for rule in rules for token in rule.split()]


def test_every_symbol_is_defined_and_used():
    used = {token for token in tokens() if token.isupper() or "_" in token}
    cast = {"HERO", "SHE", "HER"}
    defined = set(LEXICON) | set(RULES) | cast
    assert used <= defined
    assert (defined - used) <= {"S"}


def test_no_word_is_twice_in_a_list():
    for symbol, words in LEXICON.items():
        assert len(words.split()) == len(set(words.split())), symbol


def test_transcript_has_capitals_and_no_punctuation():
    assert transcript("Yesterday, Anna found an egg.") == "YESTERDAY ANNA FOUND AN EGG"
    assert transcript("Did I?") == "DID I"


def test_sentences_are_new_and_of_the_promised_length():
    sentences = StoryWriter("1").story(400)
    texts = [transcript(sentence) for sentence in sentences]
    assert len(set(texts)) == 400
    assert all(3 <= len(text.split()) <= 14 for text in texts)
    assert all(re.fullmatch(r"[A-Z][A-Za-z, ]*[.?]", sentence) for sentence in sentences)


def test_articles_and_verbs_agree():
    texts = [f" {transcript(sentence)} " for sentence in StoryWriter("2").story(400)]
    singular = {word.upper() for word in LEXICON["THING"].split()}
    plural = {word.upper() for word in LEXICON["THINGS"].split()}
    seen = Counter()
    for text in texts:
        assert not re.search(r" A [AEIOU]| AN [^AEIOU]", text), text
        for noun, verb in re.findall(r" (\w+) (WAS|WERE) ", text):
            seen[verb] += 1
            assert not (noun in singular and verb == "WERE"), text
            assert not (noun in plural and verb == "WAS"), text
        # numbers go with plurals
        assert not set(re.findall(r" (?:TWO|SIX|TWENTY|MANY) (\w+) ", text)) & singular, text
    assert seen["WAS"] > 10 and seen["WERE"] > 1


def test_a_story_has_one_hero_with_the_right_pronoun():
    for story in (StoryWriter(str(seed)).story(60) for seed in range(4)):
        words = Counter(word for sentence in story for word in transcript(sentence).split())
        assert (words["HE"] == 0) != (words["SHE"] == 0)
        assert (words["HIS"] == 0) != (words["HER"] == 0)
        assert (words["HE"] == 0) == (words["HIS"] == 0)


def test_a_writer_is_a_function_of_its_seed():
    assert StoryWriter("1").story(20) == StoryWriter("1").story(20)
    assert StoryWriter("1").story(20) != StoryWriter("2").story(20)


def test_avoided_sentences_and_foreign_words_are_not_written():
    known = [transcript(sentence) for sentence in StoryWriter("1").story(300)]
    vocabulary = {word for text in known for word in text.split()}
    # The same seed would write the same sentences again.
    again = StoryWriter("1", avoid=set(known), vocabulary=vocabulary).story(100)
    texts = {transcript(sentence) for sentence in again}
    assert not texts & set(known)
    assert {word for text in texts for word in text.split()} <= vocabulary


def test_too_small_a_vocabulary_is_an_error_with_a_remedy():
    with pytest.raises(UserError, match="more training utterances"):
        StoryWriter("1", vocabulary={"THE", "DOG"}).story(1)


@pytest.mark.parametrize("seed", [42, 1])
def test_the_default_corpus_covers_its_words(seed):
    texts: dict[str, list[str]] = {"train": [], "dev": [], "test": []}
    for chapter in plan(CorpusConfig(seed=seed)):
        texts[chapter.split] += map(transcript, chapter.sentences)
    words = {split: Counter(" ".join(lines).split()) for split, lines in texts.items()}
    everything = {word.upper() for line in LEXICON.values() for word in line.split()}
    everything |= {token.upper() for token in tokens() if token.isalpha() and token.islower()}
    assert set(words["train"]) - {"AN", "HE", "SHE", "HIS", "HER"} == everything - {"AN"}
    assert min(words["train"].values()) >= 5
    assert set(words["dev"]) | set(words["test"]) <= set(words["train"])
    lines = [line for split in texts.values() for line in split]
    assert len(lines) == len(set(lines))
