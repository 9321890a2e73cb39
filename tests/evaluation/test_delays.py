"""Emission delays of made-up alignments, and the files that they are read from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mvqkd.errors import UserError
from mvqkd.evaluation.bootstrap import ConfidenceInterval, Difference
from mvqkd.evaluation.delay_picture import draw_delays
from mvqkd.evaluation.delays import Delays, delay_rows, delays_table, emission_delays
from mvqkd.evaluation.gather import Comparison, Experiment, Rates
from mvqkd.evaluation.report import results_table
from mvqkd.evaluation.token_times import TimedTokens, read_times, write_times

SAID = TimedTokens(["▁THE", "▁C", "AT", "▁SAT"], [2, 5, 7, 10])
LATE = emission_delays(
    {"a": SAID}, {"a": TimedTokens(SAID.units, [3, 6, 8, 11])}, chunk_size=4
).as_dict()


def streamed(chunk: int, *, wer: float = 12.345, name: str = "dev", **more: Any) -> dict[str, Any]:
    """A result of decoding with chunks of a size; 0: full context, which has no delays."""
    return {
        "set": name,
        "method": "greedy_search",
        "suffix": f"chunk-{chunk}" if chunk else "",
        "settings": {"chunk_size": chunk or None, "chunked": chunk == 8},
        "time": "2026-01-01",
        "wer": wer,
        "interval": [wer - 1, wer + 1],
        "interval_by_speaker": None,
        "rtf": 0.01,
        "path": Path(f"{name}-{chunk}-{wer}"),
        "parameters": 1,
        **({"delays": LATE} if chunk else {}),
        **more,
    }


def experiment(name: str, *results: dict[str, Any]) -> Experiment:
    return Experiment(name, Path(name), list(results), [], [], {}, {})


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
    assert delays.end is None and delays.chunk is None


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


@pytest.mark.parametrize("chunk_size", [1, 3, 4, 20])
@pytest.mark.parametrize("num_frames", [None, 12])
def test_a_word_is_seen_when_its_chunk_is_complete(chunk_size: int, num_frames: int | None) -> None:
    # Chunks one after the other; the utterance ends the last.
    length = num_frames or 40
    starts = range(0, length, chunk_size)
    chunks = [range(start, min(start + chunk_size, length)) for start in starts]
    said = TimedTokens(["▁THE"], [5], num_frames)
    for frame in range(12):
        emitted = TimedTokens(["▁THE"], [frame])
        found = emission_delays({"a": said}, {"a": emitted}, chunk_size=chunk_size)
        (chunk,) = (chunk for chunk in chunks if frame in chunk)
        assert found.chunk is not None and found.chunk.mean == 40 * (chunk[-1] - 5)
        assert found.words is not None and found.words.mean == 40 * (frame - 5)


def test_what_is_emitted_in_the_padding_is_not_seen_before() -> None:
    said = TimedTokens(["▁THE"], [5], 6)
    found = emission_delays({"a": said}, {"a": TimedTokens(["▁THE"], [8])}, chunk_size=4)
    assert found.chunk is not None and found.chunk.mean == 120


def test_other_vocabularies_have_delays_of_words_alone() -> None:
    found = TimedTokens(["▁THE", "▁CA", "T", "▁SAT"], [3, 5, 8, 11])
    delays = emission_delays({"a": SAID}, {"a": found})
    assert delays.tokens is None and delays.words == Delays(3, 40.0, 40.0, 40.0)


def test_nine_of_ten_are_not_later_than_the_quantile() -> None:
    assert Delays.of(list(range(1, 11))) == Delays(10, 220.0, 220.0, 360.0)
    assert Delays.of([]) is None


def test_files_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "times-x.jsonl"
    utterances = {"b": SAID, "a": TimedTokens([], []), "c": TimedTokens(["▁A"], [0], 3)}
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
    row = {"experiment": "x", "set": "dev", "decoding": "greedy", "wer": 12.345, "delays": delays}
    table = delays_table([row])
    assert "| x | dev | greedy | 12.35 |" + " 40 |" * 6 + " – |" * 6 in table
    difference = Difference(-1.5, ConfidenceInterval(-2.25, 0.5), 0.9)
    rows = [row | {"difference": difference}, row | {"difference": None}]
    header, _, first, second = delays_table(rows, baseline="y").splitlines()
    assert "| minus y (95 %) |" in header
    assert "| 12.35 | -1.50 (-2.25 to +0.50) | 40 |" in first and "| 12.35 |  | 40 |" in second


def test_students_with_the_same_chunks_follow_each_other() -> None:
    early = streamed(16, wer=99.0) | {"suffix": "epoch-1", "time": "2025-12-31"}
    first = experiment("a", streamed(0), streamed(16), streamed(4), early)
    second = experiment("b", streamed(4, wer=10.0), streamed(16), streamed(4, name="test"))
    rate = Rates(12.345, Difference(2.345, ConfidenceInterval(1.0, 3.0), 0.01))
    compared = {"a": [Comparison(first.results[2], second.results[0], rate, rate)]}
    rows = delay_rows([first, second], compared)
    found = [(row["set"], row["decoding"], row["experiment"], row["wer"]) for row in rows]
    small, large = "greedy_search, 160 ms", "greedy_search, 640 ms"
    assert found == [
        ("dev", small, "a", 12.345),
        ("dev", small, "b", 10.0),
        ("dev", large, "a", 12.345),  # not what was decoded before
        ("dev", large, "b", 12.345),
        ("test", small, "b", 12.345),
    ]
    assert [row["difference"] for row in rows] == [rate.difference, None, None, None, None]


def test_delays_stand_beside_error_rates() -> None:
    without = experiment("a", streamed(0), streamed(0, name="test"))
    table = results_table([without], by_speaker=False)
    assert "delay" not in table
    late = streamed(4)
    late["delays"] = late["delays"] | {"end": None, "words": {"median": 80.0, "p90": 160.0}}
    both = [without, experiment("b", late, streamed(4, name="test", delays=None))]
    header, _, *rows = results_table(both, by_speaker=False).splitlines()
    names = [cell.strip() for cell in header.split("|")]
    assert names.count("delay, ms (90 %)") == names.count("last word") == 1  # of dev alone
    column = names.index("delay, ms (90 %)")
    cells = [[cell.strip() for cell in row.split("|")][column : column + 2] for row in rows]
    assert cells == [["", ""], ["80 (160)", ""]]


def test_error_rates_are_drawn_against_delays(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "delays.png"
    teacher = experiment("teacher", streamed(0, wer=5.0))
    drawn: list[tuple[Any, Any, Any]] = []
    lines: list[float] = []
    monkeypatch.setattr(
        "matplotlib.axes.Axes.plot",
        lambda ax, x, y, marker=None, **style: drawn.append((x, y, marker)),
    )
    monkeypatch.setattr("matplotlib.axes.Axes.axhline", lambda ax, y, **style: lines.append(y))
    assert not draw_delays(path, [teacher], reference="teacher", by_speaker=False)
    student = experiment("student", streamed(8, wer=10.0), streamed(4, wer=14.0))
    other = experiment("other", streamed(0, wer=7.0))
    everyone = [teacher, student, other]
    assert draw_delays(path, everyone, reference="teacher", by_speaker=False)
    mean = LATE["chunk"]["mean"]
    assert ([mean, mean], [14.0, 10.0], None) in drawn  # by chunk size
    assert [point for point in drawn if point[0] == mean] == [(mean, 14.0, "o"), (mean, 10.0, "s")]
    assert lines == [5.0] and path.read_bytes().startswith(b"\x89PNG")


def test_there_is_no_point_without_an_error_rate(tmp_path: Path) -> None:
    student = experiment("student", streamed(4) | {"wer": None, "interval": [None, None]})
    assert not draw_delays(tmp_path / "x.png", [student], reference="", by_speaker=False)
