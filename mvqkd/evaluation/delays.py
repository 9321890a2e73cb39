"""Emission delays: how much later a student emits tokens and words than a reference alignment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from mvqkd.evaluation.report import markdown_table
from mvqkd.evaluation.token_times import TimedTokens
from mvqkd.evaluation.wer import align
from mvqkd.geometry import ENCODER_RATE

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

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            name: asdict(found) if found else None
            for name, found in zip(self._fields, self, strict=True)
        }


def emission_delays(
    reference: Mapping[str, TimedTokens], hypotheses: Mapping[str, TimedTokens]
) -> UtteranceDelays:
    """Delays of a test set.

    Reference and hypothesis of an utterance are aligned with the fewest errors, tokens and words
    each by themselves; what is equal in both is measured.

    Args:
        reference: by utterance, the tokens of what was said; utterances that it lacks are left out.
        hypotheses: by utterance.
    """
    tokens: list[int] = []
    words: list[int] = []
    end: list[int] = []
    same_tokens = True
    for name, said in reference.items():
        if name not in hypotheses:
            continue
        found = hypotheses[name]
        tokens += [late for _, late in _matched(said, found)]
        spoken, recognized = said.words(), found.words()
        # Other tokens of the same words: the vocabularies differ.
        same_words = spoken.units == recognized.units
        same_tokens &= not same_words or said.units == found.units
        delays = dict(_matched(spoken, recognized))
        words += delays.values()
        if (last := len(spoken.units) - 1) in delays and recognized.units[-1] == spoken.units[-1]:
            end.append(recognized.frames[-1] - spoken.frames[last])
    return UtteranceDelays(
        Delays.of(tokens) if same_tokens else None, Delays.of(words), Delays.of(end)
    )


def delays_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: error rate and delays of each result.

    Args:
        rows: with `experiment`, `set`, `decoding`, `wer` and `delays` (`UtteranceDelays.as_dict`).
    """
    header = ["experiment", "set", "decoding", "WER %"]
    for kind in ("tokens", "words", "last word"):
        header += [f"{kind}: mean, ms", "median", "90 %"]
    cells = []
    for row in rows:
        line = [row["experiment"], row["set"], row["decoding"], f"{row['wer']:.2f}"]
        for kind in UtteranceDelays._fields:
            found = row["delays"][kind]
            names = ("mean", "median", "p90")
            line += [f"{found[name]:.0f}" if found else "–" for name in names]
        cells.append(line)
    return markdown_table(header, cells)


def _matched(reference: TimedTokens, hypothesis: TimedTokens) -> Iterator[tuple[int, int]]:
    """(number in the reference, delay in frames) of each unit that is equal in both."""
    left = right = 0
    for one, other in align(reference.units, hypothesis.units):
        if one is not None and one == other:
            yield left, hypothesis.frames[right] - reference.frames[left]
        left += one is not None
        right += other is not None
