from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

from mvqkd.errors import UserError
from mvqkd.evaluation.result_files import read_recogs, write_errors, write_recogs, write_summary
from mvqkd.evaluation.wer import ErrorCounts, Transcript, align, log_line, score, spelled


def edit_distance(a: list[str], b: list[str]) -> int:
    """Levenshtein, by the textbook."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(previous[j] + 1, row[j - 1] + 1, previous[j - 1] + (x != y)))
    return row[-1]


def random_transcripts(number: int, seed: int = 0) -> list[Transcript]:
    rng = random.Random(seed)
    # "*", quotes and brackets: words that a careless format or aligner stumbles over.
    words = ["a", "b", "THE", "*", "it's", '"q"', "[x]", "ref=", "ü"]
    return [
        Transcript(
            f"{rng.randrange(100)}-{n % 7}-{n:04d}",
            rng.choices(words, k=rng.randrange(12)),
            rng.choices(words, k=rng.randrange(12)),
        )
        for n in range(number)
    ]


def test_errors_are_the_edit_distance() -> None:
    result = score(random_transcripts(300))
    for transcript, counts in zip(result.transcripts, result.utterances, strict=True):
        assert counts.errors == edit_distance(transcript.reference, transcript.hypothesis)
        assert counts.words == len(transcript.reference)
        observed = counts.words - counts.deletions + counts.insertions
        assert observed == len(transcript.hypothesis)
    assert result.total.errors == sum(counts.errors for counts in result.utterances)
    assert result.total.wer == pytest.approx(100 * result.total.errors / result.total.words)


def test_alignments_contain_both_sides_in_order() -> None:
    for _, reference, hypothesis in random_transcripts(50):
        pairs = align(reference, hypothesis)
        assert [a for a, _ in pairs if a is not None] == reference
        assert [b for _, b in pairs if b is not None] == hypothesis


def test_word_counts_add_up() -> None:
    result = score(random_transcripts(200))
    total = result.total
    counts = result.words.values()
    assert sum(c.in_reference for c in counts) == total.words
    assert sum(c.in_hypothesis for c in counts) == sum(
        len(t.hypothesis) for t in result.transcripts
    )
    assert sum(c.substituted for c in counts) == total.substitutions
    assert sum(c.mistaken for c in counts) == total.substitutions
    assert sum(result.deletions.values()) == total.deletions
    assert sum(result.insertions.values()) == total.insertions


@pytest.mark.parametrize(
    ("transcripts", "wer"),
    [
        ([], math.nan),
        ([Transcript("a", [], [])], math.nan),
        ([Transcript("a", [], ["x"])], math.nan),
        ([Transcript("a", [], ["x"]), Transcript("b", ["y", "z"], ["y", "z"])], 50.0),
        ([Transcript("a", ["x"], ["y", "z", "z"])], 300.0),
    ],
)
def test_empty_references(transcripts: list[Transcript], wer: float, tmp_path: Path) -> None:
    result = score(transcripts)
    assert result.total.wer == pytest.approx(wer, nan_ok=True)
    write_errors(tmp_path / "errs.txt", result)
    first = (tmp_path / "errs.txt").read_text().splitlines()[0]
    assert first == f"%WER = {wer:.2f}"


def test_characters_count_spaces() -> None:
    transcripts = [Transcript("a", ["A", "LADY"], ["ALADY"]), Transcript("b", [], ["ON"])]
    counts = score(spelled(transcripts)).total
    assert counts == ErrorCounts(deletions=1, insertions=2, words=6)


def test_strings_are_refused() -> None:
    with pytest.raises(ValueError, match="lists of words, that of b is a string"):
        score([Transcript("a", ["ONE"], ["ONE"]), Transcript("b", ["ONE"], "ONE")])  # type: ignore[arg-type]


def test_log_line() -> None:
    counts = ErrorCounts(substitutions=966, deletions=98, insertions=130, words=52576)
    assert log_line("test-clean-greedy_search", counts) == (
        "[test-clean-greedy_search] %WER 2.27% [1194 / 52576, 130 ins, 98 del, 966 sub ]"
    )


def test_recogs_are_read_back(tmp_path: Path) -> None:
    transcripts = random_transcripts(40)
    write_recogs(tmp_path / "recogs.txt", transcripts)
    assert read_recogs(tmp_path / "recogs.txt") == sorted(transcripts)
    lines = (tmp_path / "recogs.txt").read_text(encoding="utf-8").splitlines()
    example = sorted(transcripts)[0]
    assert lines[0] == f"{example.id}:\tref={example.reference}"
    assert lines[1] == f"{example.id}:\thyp={example.hypothesis}"


@pytest.mark.parametrize(
    "text",
    [
        "1-2-3:\tref=['a']\n",
        "1-2-3:\tref=['a']\n1-2-4:\thyp=['a']\n",
        "1-2-3:\tref=['a'\n1-2-3:\thyp=['a']\n",
        "1-2-3:\tref=__import__('os')\n1-2-3:\thyp=['a']\n",
    ],
)
def test_damaged_recogs_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "recogs.txt"
    path.write_text(text)
    with pytest.raises(UserError, match="line 1"):
        read_recogs(path)
    with pytest.raises(UserError, match="missing"):
        read_recogs(tmp_path / "other.txt")


def test_errors_file(tmp_path: Path) -> None:
    transcripts = [
        Transcript(utterance, reference.split(), hypothesis.split())
        for utterance, reference, hypothesis in (
            ("b", "the cat sat on the mat", "the hat sat the mat"),
            ("a", "good day", "good day to you"),
            ("c", "one two", "three"),
        )
    ]
    path = tmp_path / "errs.txt"
    write_errors(path, score(transcripts))
    lines = path.read_text().splitlines()
    assert lines[0] == "%WER = 60.00"
    assert lines[1] == (
        "Errors: 2 insertions, 2 deletions, 2 substitutions, over 10 reference words (6 correct)"
    )
    details = lines.index("PER-UTT DETAILS: corr or (ref->hyp)")
    assert lines[details + 1 : details + 4] == [
        "a:\tgood day (*->to you)",
        "b:\tthe (cat->hat) sat (on->*) the mat",
        "c:\t(one two->three)",
    ]
    assert "1   cat -> hat" in lines
    words = lines[lines.index("PER-WORD STATS: word  corr tot_errs count_in_ref count_in_hyp") :]
    assert "the   2 0 2 2" in words
    assert "hat   0 1 0 1" in words
    assert "on   0 1 1 0" in words


def test_summary(tmp_path: Path) -> None:
    write_summary(tmp_path / "wer-summary.txt", {"beam": 2.5, "greedy": 2.25})
    assert (tmp_path / "wer-summary.txt").read_text() == (
        "settings\tWER\ngreedy\t2.25\nbeam\t2.50\n"
    )
