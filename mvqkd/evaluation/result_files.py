"""The files `recogs-*`, `errs-*` and `wer-summary-*`, in icefall's formats."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path

from mvqkd.errors import UserError
from mvqkd.evaluation.wer import GAP, Alignment, Score, Transcript
from mvqkd.storage.files import write_text


def write_recogs(path: str | Path, transcripts: Iterable[Transcript]) -> None:
    """Two lines for each utterance, sorted by id: `<id>:\\tref=[...]` and `<id>:\\thyp=[...]`."""
    lines = []
    for utterance, reference, hypothesis in sorted(transcripts):
        lines.append(f"{utterance}:\tref={reference}\n{utterance}:\thyp={hypothesis}\n")
    write_text(path, "".join(lines))


def read_recogs(path: str | Path) -> list[Transcript]:
    """What `write_recogs` or icefall wrote.

    Raises:
        UserError: the file is missing, or a line is not of that format.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} is missing", step="decoding")
    lines = path.read_text(encoding="utf-8").split("\n")
    if lines[-1] == "":
        lines.pop()
    transcripts = []
    for number in range(0, len(lines), 2):
        try:
            (first, reference), (second, hypothesis) = (
                lines[number + i].split(f":\t{name}=", 1) for i, name in enumerate(("ref", "hyp"))
            )
            if first != second:
                raise ValueError("reference and hypothesis of different utterances")
            words = [_words(reference), _words(hypothesis)]
        except (ValueError, SyntaxError, IndexError) as error:
            raise UserError(
                f"{path}, line {number + 1}: not a pair `<id>:\\tref=[...]`, `<id>:\\thyp=[...]`: "
                f"{error}",
                remedy="delete the file and decode again",
            ) from None
        transcripts.append(Transcript(first, *words))
    return transcripts


def write_errors(path: str | Path, score: Score) -> None:
    """`%WER = 5.67`, then alignments of utterances, errors by kind, and counts of each word."""
    total = score.total
    correct = total.words - total.substitutions - total.deletions
    lines = [
        f"%WER = {total.wer:.2f}",
        f"Errors: {total.insertions} insertions, {total.deletions} deletions, "
        f"{total.substitutions} substitutions, over {total.words} reference words "
        f"({correct} correct)",
        "Search below for sections starting with PER-UTT DETAILS:, SUBSTITUTIONS:, DELETIONS:, "
        "INSERTIONS:, PER-WORD STATS:",
        "",
        "PER-UTT DETAILS: corr or (ref->hyp)",
    ]
    for transcript, alignment in zip(score.transcripts, score.alignments, strict=True):
        lines.append(f"{transcript.id}:\t{_show(alignment)}")
    lines += ["", "SUBSTITUTIONS: count ref -> hyp"]
    for (reference, hypothesis), count in _most(score.substitutions):
        lines.append(f"{count}   {reference} -> {hypothesis}")
    lines += ["", "DELETIONS: count ref"]
    lines += [f"{count}   {word}" for word, count in _most(score.deletions)]
    lines += ["", "INSERTIONS: count hyp"]
    lines += [f"{count}   {word}" for word, count in _most(score.insertions)]
    lines += ["", "PER-WORD STATS: word  corr tot_errs count_in_ref count_in_hyp"]
    for word, counts in sorted(score.words.items(), key=lambda item: (-item[1].errors, item[0])):
        lines.append(
            f"{word}   {counts.correct} {counts.errors} {counts.in_reference} "
            f"{counts.in_hypothesis}"
        )
    write_text(path, "\n".join(lines) + "\n")


def write_summary(path: str | Path, rates: Mapping[str, float]) -> None:
    """`settings\\tWER` and a line for each of the settings, the best first."""
    ranked = sorted(rates.items(), key=lambda item: item[1])
    rows = "".join(f"{settings}\t{rate:.2f}\n" for settings, rate in ranked)
    write_text(path, f"settings\tWER\n{rows}")


def _words(text: str) -> list[str]:
    words = ast.literal_eval(text)
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ValueError(f"{text!r} is not a list of words")
    return words


def _show(alignment: Alignment) -> str:
    """Correct words as they are, runs of errors as `(reference->hypothesis)`."""
    parts = []
    for wrong, run in itertools.groupby(alignment, key=lambda pair: pair[0] != pair[1]):
        pairs = list(run)
        if wrong:
            reference = " ".join(a for a, _ in pairs if a is not None) or GAP
            hypothesis = " ".join(b for _, b in pairs if b is not None) or GAP
            parts.append(f"({reference}->{hypothesis})")
        else:
            parts += [a for a, _ in pairs if a is not None]
    return " ".join(parts)


def _most(counts: Mapping) -> list:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
