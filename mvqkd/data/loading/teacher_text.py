"""What a teacher wrote of an utterance, as what a student is trained to recognize it as."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from mvqkd.data.loading.hypotheses import WeightedTokens
from mvqkd.data.loading.labelled import SPEED
from mvqkd.data.loading.limits import TargetSizes
from mvqkd.data.loading.tokenizer import Tokenizer
from mvqkd.data.targets.hypothesis_records import UtteranceHypotheses
from mvqkd.data.targets.hypothesis_weights import Weighting, hypothesis_weights
from mvqkd.errors import UserError
from mvqkd.geometry import UNK

# Hypotheses of a smaller weight would cost time and teach nothing.
_SMALLEST_WEIGHT = 1e-4


@dataclass(frozen=True)
class TextChoice:
    """Which hypotheses are trained on, and what they weigh."""

    num_hypotheses: int = 5
    """K: those of an utterance, at most."""
    weighting: Weighting = "equal"
    temperature: float = 1.0
    """See `hypothesis_weights`."""
    weight: float = 1.0
    """Of all hypotheses of an utterance together, where a transcript weighs 1."""
    truth_share: float = 0.0
    """Weight of the transcript in the mixture with the hypotheses, where there is one."""
    max_wer: float = 0.0
    """Percent: an utterance with a transcript is left out if its best hypothesis has more word
    errors; 0: none is."""
    min_confidence: float = 0.0
    """One without is left out if its best hypothesis has less confidence."""
    ctc: bool = False
    """Whether hypotheses need frames for blanks between equal tokens, too."""


class TeacherText:
    """Hypotheses by utterance id, with weights.

    Speed-perturbed copies have the hypotheses of their originals. Hypotheses with characters that
    the tokenizer does not know, or with more tokens than the utterance has frames, are left out.

    Args:
        utterances: what is stored of each.
        tokenizer: of the student.
        choice: which of them count.
        stored_tokens: whether the stored tokens are of this tokenizer; otherwise the texts are
            encoded anew.
    """

    def __init__(
        self,
        utterances: Iterable[UtteranceHypotheses],
        tokenizer: Tokenizer,
        choice: TextChoice,
        *,
        stored_tokens: bool,
    ) -> None:
        self.choice = choice
        self._places: dict[str, int] = {}
        tokens: list[NDArray[np.int32]] = []
        firsts, log_probs, errors, words, confidences = [0], [], [], [], []
        for utterance in utterances:
            self._places[utterance.id] = len(self._places)
            for hypothesis in utterance.hypotheses:
                ids = hypothesis.tokens if stored_tokens else tokenizer.encode(hypothesis.text)
                tokens.append(np.array(ids, dtype=np.int32))
                log_probs.append(hypothesis.log_prob)
                confidences.append(hypothesis.confidence)
                errors.append(-1 if hypothesis.errors is None else hypothesis.errors)
            firsts.append(len(tokens))
            words.append(-1 if utterance.words is None else utterance.words)
        # Arrays, which worker processes share: a million hypotheses as objects are gigabytes.
        self._firsts = np.array(firsts)
        self._tokens = np.concatenate([np.zeros(0, np.int32), *tokens])
        self._offsets = np.cumsum([0, *map(len, tokens)])
        self._log_probs = np.array(log_probs)
        self._confidences = np.array(confidences)
        self._errors = np.array(errors)
        self._words = np.array(words)
        self.left_out: Counter[str] = Counter()

    def __contains__(self, utterance: object) -> bool:
        return utterance in self._places or (
            isinstance(utterance, str) and SPEED.sub("", utterance) in self._places
        )

    def __call__(
        self, utterance: str, truth: NDArray[np.int32] | None, frames: int
    ) -> list[WeightedTokens]:
        """What an utterance is trained to be recognized as; may be nothing.

        With a transcript the weights sum to `truth_share` plus `weight` times the rest. Where its
        hypotheses are left out the transcript has weight 1 if `truth_share` is above 0.

        Args:
            utterance: its id.
            truth: tokens of its transcript; None: it is not to be used.
            frames: of the encoder (25 Hz).

        Raises:
            UserError: nothing is stored of it.
        """
        choice = self.choice
        share = 0.0 if truth is None else choice.truth_share
        found = self._weighted(utterance, truth is not None, frames) if share < 1.0 else []
        if not found:
            return [] if truth is None or not share else [WeightedTokens(truth, 1.0)]
        scale = choice.weight * (1.0 - share)
        weights = {item.tokens.tobytes(): scale * item.weight for item in found}
        rows = {item.tokens.tobytes(): item.tokens for item in found}
        if truth is not None and share:
            truth = truth.astype(np.int32)
            key = truth.tobytes()
            rows.setdefault(key, truth)
            weights[key] = weights.get(key, 0.0) + share
        return [WeightedTokens(rows[key], weight) for key, weight in weights.items()]

    def _span(self, utterance: str) -> tuple[int, int]:
        place = self._places.get(utterance)
        if place is None:
            place = self._places.get(SPEED.sub("", utterance))
        if place is None:
            raise UserError(
                f"there are no hypotheses of the utterance {utterance}", step="hypotheses"
            )
        return int(self._firsts[place]), int(self._firsts[place + 1])

    def _weighted(self, utterance: str, labelled: bool, frames: int) -> list[WeightedTokens]:
        """Its hypotheses that are used; their weights sum to one."""
        choice = self.choice
        first, last = self._span(utterance)
        numbers = []
        for number in range(first, last):
            ids = self._tokens[self._offsets[number] : self._offsets[number + 1]]
            if (reason := self._refusal(ids, frames)) is None:
                numbers.append(number)
            else:
                self.left_out[reason] += 1
        if first == last:
            self.left_out["no hypothesis"] += 1
        if not numbers:
            return []
        place = int(np.searchsorted(self._firsts, first, side="right")) - 1
        words = int(self._words[place])
        rates = None
        # A transcript that the experiment does not use is not known to it in any way.
        if labelled and words >= 0:
            rates = self._errors[numbers] / max(1, words)
            if choice.max_wer and 100.0 * rates[0] > choice.max_wer:
                self.left_out["word error rate"] += 1
                return []
        elif self._confidences[numbers[0]] < choice.min_confidence:
            self.left_out["confidence"] += 1
            return []
        numbers = numbers[: choice.num_hypotheses]
        weights = hypothesis_weights(
            self._log_probs[numbers].tolist(),
            choice.weighting,
            temperature=choice.temperature,
            error_rates=None if rates is None else rates[: len(numbers)].tolist(),
        )
        weights = np.where(weights < _SMALLEST_WEIGHT, 0.0, weights)
        weights = weights / weights.sum()
        return [
            WeightedTokens(self._tokens[self._offsets[n] : self._offsets[n + 1]], float(weight))
            for n, weight in zip(numbers, weights, strict=True)
            if weight
        ]

    def _refusal(self, ids: NDArray[np.int32], frames: int) -> str | None:
        if not len(ids):
            return "empty"
        if (ids == UNK).any():
            return "unknown characters"
        needed = len(ids) + (int((ids[1:] == ids[:-1]).sum()) if self.choice.ctc else 0)
        return "more tokens than frames" if needed > frames else None

    def survey(
        self,
        ids: Sequence[str],
        frames: Sequence[int],
        truths: Iterable[NDArray[np.int32]] | None,
    ) -> tuple[TargetSizes, dict[str, int]]:
        """What utterances are trained on, and how many hypotheses or utterances were left out for
        each reason.

        Args:
            ids: N utterance ids.
            frames: N, of the encoder.
            truths: tokens of N transcripts; None: they are not to be used.
        """
        self.left_out.clear()
        counts, longest = [], []
        given: Iterable[NDArray[np.int32] | None] = truths or repeat(None, len(ids))
        for name, count, truth in zip(ids, frames, given, strict=True):
            lens = [len(item.tokens) for item in self(name, truth, count)]
            counts.append(len(lens))
            longest.append(max(lens, default=0))
        reasons = dict(self.left_out)
        self.left_out.clear()
        return TargetSizes(np.array(counts, np.int64), np.array(longest, np.int64)), reasons
