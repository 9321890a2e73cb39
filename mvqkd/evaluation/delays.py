"""Emission delays: how much later a student emits tokens and words than a reference alignment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from mvqkd.evaluation.gather import Comparison, Experiment, chunk_of, last_decoded, way_of
from mvqkd.evaluation.report import markdown_table
from mvqkd.evaluation.token_times import TimedTokens
from mvqkd.evaluation.wer import align
from mvqkd.geometry import ENCODER_RATE

KINDS = {"ctc": "CTC forced alignment", "transducer": "the transducer's best path"}
"""Alignments of a reference and what they are called, the one of the results table first."""
_FRAME = 1000 / ENCODER_RATE  # ms


@dataclass(frozen=True)
class Delays:
    """Of some tokens or words, in ms; negative: earlier than the reference."""

    count: int
    mean: float
    median: float
    p90: float
    """90 % are not later."""

    @classmethod
    def of(cls, frames: Sequence[int]) -> Delays | None:
        """From delays in frames; None of nothing."""
        if not frames:
            return None
        values = _FRAME * np.asarray(frames)
        return cls(
            len(values),
            float(values.mean()),
            float(np.median(values)),
            float(np.quantile(values, 0.9, method="inverted_cdf")),
        )


class UtteranceDelays(NamedTuple):
    """Delays of what was recognized correctly, by kind."""

    tokens: Delays | None
    """None where the reference has other tokens."""
    words: Delays | None
    """Of each word's last token."""
    end: Delays | None
    """Of the last word of each utterance, where it was recognized correctly."""
    chunk: Delays | None
    """Of words, until the chunk with the word's last token is complete; None: full context."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            name: asdict(found) if found else None
            for name, found in zip(self._fields, self, strict=True)
        }


def emission_delays(
    reference: Mapping[str, TimedTokens],
    hypotheses: Mapping[str, TimedTokens],
    *,
    chunk_size: int | None = None,
) -> UtteranceDelays:
    """Delays of a test set.

    Reference and hypothesis of an utterance are aligned with the fewest errors, tokens and words
    each by themselves; what is equal in both is measured.

    Args:
        reference: by utterance, the tokens of what was said; utterances that it lacks are left out.
        hypotheses: by utterance.
        chunk_size: of the decoding, in frames; None or 0: full context.
    """
    tokens: list[int] = []
    words: list[int] = []
    end: list[int] = []
    chunk: list[int] = []
    same_tokens = True
    for name, said in reference.items():
        if name not in hypotheses:
            continue
        found = hypotheses[name]
        tokens += [frame - at for _, at, frame in _matched(said, found)]
        spoken, recognized = said.words(), found.words()
        # Other tokens of the same words: the vocabularies differ.
        same_words = spoken.units == recognized.units
        same_tokens &= not same_words or said.units == found.units
        last = len(spoken.units) - 1
        for number, at, frame in _matched(spoken, recognized):
            words.append(frame - at)
            if number == last and recognized.units[-1] == spoken.units[-1]:
                end.append(recognized.frames[-1] - at)
            if chunk_size:
                chunk.append(_complete(frame, chunk_size, said.num_frames) - at)
    return UtteranceDelays(
        Delays.of(tokens) if same_tokens else None,
        Delays.of(words),
        Delays.of(end),
        Delays.of(chunk),
    )


def delay_rows(
    experiments: Sequence[Experiment], compared: Mapping[str, Sequence[Comparison]]
) -> list[dict[str, Any]]:
    """Rows of `delays_table`: the last result of each set, search and chunk size that has delays.
    Experiments with the same of these follow each other.

    Args:
        experiments: whose results may have `delays`.
        compared: for experiments what `gather.compare` gave.
    """
    differences = {
        found.result["path"]: found.words.difference
        for comparisons in compared.values()
        for found in comparisons
    }
    found = [(e.name, r) for e in experiments for r in last_decoded(e) if r.get("delays")]
    found.sort(key=lambda item: (item[1]["set"], item[1]["method"], chunk_of(item[1])))
    rows = [delay_row(name, result, result["delays"]) for name, result in found]
    for row, (_, result) in zip(rows, found, strict=True):
        row["difference"] = differences.get(result["path"])
    return rows


def delay_row(experiment: str, result: Mapping[str, Any], delays: Any) -> dict[str, Any]:
    """A row of `delays_table`.

    Args:
        experiment: its name.
        result: of the decoding.
        delays: `UtteranceDelays.as_dict`.
    """
    row = {name: result[name] for name in ("set", "wer")}
    return {"experiment": experiment, "decoding": way_of(dict(result)), "delays": delays, **row}


def delays_section(
    experiments: Sequence[Experiment],
    compared: Mapping[str, Sequence[Comparison]],
    *,
    reference: str,
    kind: str,
    baseline: str | None,
) -> str:
    """The section of the results page.

    Args:
        experiments, compared: see `delay_rows`.
        reference: name of the experiment that aligned.
        kind: of the alignment.
        baseline: of `compared`.
    """
    rows = delay_rows(experiments, compared)
    with_difference = baseline if any(row["difference"] for row in rows) else None
    return (
        f"## Emission delays\n\nOf what was recognized correctly, against {KINDS[kind]} of the "
        f"transcripts by `{reference}`; negative is earlier. A word is emitted with its last "
        "token, and seen when the chunk of that is complete (the last columns). In the first table "
        "the delay is the median over words, with the 90th percentile in brackets, and beside it "
        f"that of the last word of each utterance.\n\n"
        f"{delays_table(rows, baseline=with_difference)}"
    )


def delays_table(rows: Sequence[Mapping[str, Any]], *, baseline: str | None = None) -> str:
    """Markdown: error rate and delays of each result.

    Args:
        rows: with `experiment`, `set`, `decoding`, `wer`, `delays` (`UtteranceDelays.as_dict`), and
            `difference` from the baseline's error rate, if any.
        baseline: its name, for a column of the differences with their 95 % intervals.
    """
    header = ["experiment", "set", "decoding", "WER %"]
    header += [f"minus {baseline} (95 %)"] if baseline else []
    for kind in ("tokens", "words", "last word", "words, chunk complete"):
        header += [f"{kind}: mean, ms", "median", "90 %"]
    cells = []
    for row in rows:
        line = [row["experiment"], row["set"], row["decoding"]]
        line.append("–" if row["wer"] is None else f"{row['wer']:.2f}")
        if baseline:
            line.append(_difference(row.get("difference")))
        for kind in UtteranceDelays._fields:
            found = row["delays"][kind]
            names = ("mean", "median", "p90")
            line += [str(round(found[name])) if found else "–" for name in names]
        cells.append(line)
    return markdown_table(header, cells)


def _difference(found: Any) -> str:
    if found is None:
        return ""
    low, high = found.interval
    return f"{found.difference:+.2f} ({low:+.2f} to {high:+.2f})"


def _matched(reference: TimedTokens, hypothesis: TimedTokens) -> Iterator[tuple[int, int, int]]:
    """(number in the reference, its frame there, that in the hypothesis) of each unit that is equal
    in both."""
    left = right = 0
    for one, other in align(reference.units, hypothesis.units):
        if one is not None and one == other:
            yield left, reference.frames[left], hypothesis.frames[right]
        left += one is not None
        right += other is not None


def _complete(frame: int, chunk_size: int, num_frames: int | None) -> int:
    """The last frame of the chunk that a frame is in, which ends with the utterance."""
    last = (frame // chunk_size + 1) * chunk_size - 1
    return last if num_frames is None else max(frame, min(last, num_frames - 1))
