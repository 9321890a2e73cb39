"""Emission delays of made-up alignments, and the files that they are read from."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvqkd.errors import UserError
from mvqkd.evaluation.delays import Delays, delays_table, emission_delays
from mvqkd.evaluation.token_times import TimedTokens, read_times, write_times

SAID = TimedTokens(["▁THE", "▁C", "AT", "▁SAT"], [2, 5, 7, 10])


def test_words_end_with_their_last_token() -> None:
    assert SAID.words() == TimedTokens(["THE", "CAT", "SAT"], [2, 7, 10])
    # A hypothesis may begin within a word, and have a space of its own.
    assert TimedTokens(["AT", "▁", "SAT"], [1, 2, 3]).words() == TimedTokens(["AT", "SAT"], [1, 3])
    assert TimedTokens([], []).words() == TimedTokens([], [])


def test_equal_units_are_measured() -> None:
    found = TimedTokens(["▁A", "▁THE", "▁C", "AT", "▁MAT"], [0, 3, 5, 11, 12])
    delays = emission_delays({"a": SAID}, {"a": found})
    # THE 1, C 0, AT 4 frames; the insertion and the substitution are left out.
    assert delays.tokens == Delays(3, pytest.approx(200 / 3), 40.0, 160.0)
    assert delays.words == Delays(2, 100.0, 100.0, 160.0)
    assert delays.end is None


def test_the_end_of_utterances() -> None:
    right = TimedTokens(["▁SAT"], [13])
    wrong = TimedTokens(["▁SAT", "▁ON"], [13, 14])
    reference = {"a": SAID, "b": SAID, "c": SAID}
    delays = emission_delays(reference, {"a": right, "b": wrong})
    assert delays.end == Delays(1, 120.0, 120.0, 120.0)
    assert delays.words.count == 2


def test_earlier_is_negative() -> None:
    delays = emission_delays({"a": SAID}, {"a": TimedTokens(SAID.units, [0, 3, 5, 8])})
    assert delays.tokens.mean == delays.end.median == -80.0


def test_other_vocabularies_have_delays_of_words_alone() -> None:
    found = TimedTokens(["▁THE", "▁CA", "T", "▁SAT"], [3, 5, 8, 11])
    delays = emission_delays({"a": SAID}, {"a": found})
    assert delays.tokens is None and delays.words == Delays(3, 40.0, 40.0, 40.0)


def test_nine_of_ten_are_not_later_than_the_quantile() -> None:
    assert Delays.of(list(range(1, 11))) == Delays(10, 220.0, 220.0, 360.0)
    assert Delays.of([]) is None


def test_files_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "times-x.jsonl"
    utterances = {"b": SAID, "a": TimedTokens([], [])}
    write_times(path, utterances)
    assert read_times(path) == utterances
    assert path.read_text(encoding="utf-8").startswith('{"id": "a"')
    with pytest.raises(UserError, match="is missing") as error:
        read_times(tmp_path / "none")
    assert error.value.step == "decoding"
    path.write_text('{"id": "a", "tokens": ["x"], "frames": []}\n')
    with pytest.raises(UserError, match="line 1"):
        read_times(path)


def test_the_table_has_a_row_for_each_result() -> None:
    delays = emission_delays({"a": SAID}, {"a": TimedTokens(["▁THE"], [3])}).as_dict()
    table = delays_table(
        [{"experiment": "x", "set": "dev", "decoding": "greedy", "wer": 12.345, "delays": delays}]
    )
    assert "| x | dev | greedy | 12.35 | 40 | 40 | 40 | 40 | 40 | 40 | – | – | – |" in table
