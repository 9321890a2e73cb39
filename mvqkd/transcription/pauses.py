"""Long audio -> utterances: what lies between pauses is decoded by itself, as in training.

A pause is found by its level alone, relative to the noise of the last half minute. Where noise
hides the pauses, an utterance goes on.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mvqkd.geometry import ENCODER_RATE, SAMPLE_RATE

FRAME = round(SAMPLE_RATE / ENCODER_RATE)
"""Samples of a frame of the encoder, 40 ms: utterances begin where one does."""
_INAUDIBLE = 10**-6.6
"""Mean square up to which a frame is quiet, whatever the noise is: 66 dB below full scale."""
_ABOVE_NOISE = 10**0.6
"""A frame is quiet up to 6 dB above the noise..."""
_BELOW_SPEECH = 10**-1.5
"""...if that is 15 dB below the loudest stretch: without contrast it is not known what is noise."""
_NOISE_QUANTILE = 0.05
_HISTORY = 750
"""Frames among which the noise is looked for."""
_PERIOD = 5
"""Frames after which the threshold is computed anew, and of which a loud stretch consists."""
_ONSET = 2
"""Frames above the threshold that begin an utterance: one alone is a click."""
_NOTICED = 2 * _PERIOD + _ONSET
"""Frames from the onset after silence of an unknown level until the threshold is above it."""


@dataclass(frozen=True)
class PauseRule:
    """What separates utterances; seconds."""

    shortest: float = 0.6
    """Of a pause."""
    kept: float = 0.08
    """Of a pause, what belongs to the utterances before and after it."""


PAUSES = PauseRule()


def pause_rule(seconds: float) -> PauseRule | None:
    """The rule with pauses of so many seconds; None for 0: all audio is one utterance."""
    return PauseRule(seconds) if seconds > 0 else None


@dataclass
class Part:
    """Samples of an utterance."""

    start: int
    """Sample of the audio at which they begin; that of an utterance is a multiple of `FRAME`."""
    samples: NDArray[np.float32]
    """(S,) at 16 kHz."""
    begins: bool = False
    """Whether an utterance begins with them."""
    ends: bool = False
    """Whether the utterance ends with them."""
    quiet: int = 0
    """Samples at the end that belong to a pause alone, or to the next utterance."""


class Utterances:
    """Divides audio into utterances as it arrives, whatever the sizes in which it does.

    Args:
        rule: what separates them; None: all audio is one.
    """

    def __init__(self, rule: PauseRule | None = PAUSES) -> None:
        self._pause = max(1, round(rule.shortest * ENCODER_RATE)) if rule else 0
        self._kept = min(self._pause, round(rule.kept * ENCODER_RATE)) if rule else 0
        self._open = self._has_begun = False
        self._position = 0  # sample at which what waits begins
        self._waiting = np.zeros(0, dtype=np.float32)  # less than a frame
        self._begun = 0  # frame at which the utterance begins
        # As many as are needed to find a pause before the newest `_NOTICED`.
        self._recent: deque[NDArray[np.float32]] = deque(maxlen=self._kept + _NOTICED)
        self._powers: deque[float] = deque(maxlen=self._pause + _NOTICED)
        self._history = np.zeros(_HISTORY)
        self._count = 0  # frames so far
        self._loudest, self._threshold = 0.0, _INAUDIBLE

    @property
    def undecided(self) -> int:
        """Samples at the end of an utterance that goes on which may yet be `Part.quiet`."""
        return max(self._pause - self._kept, self._kept + _NOTICED) * FRAME

    def accept(self, samples: NDArray[np.float32]) -> list[Part]:
        """More samples (S,) in [-1, 1] at 16 kHz -> parts of utterances; none within a pause."""
        if not self._pause:
            part = Part(self._position, samples, begins=not self._has_begun)
            self._open = self._has_begun = True
            self._position += len(samples)
            return [part]
        samples = np.concatenate([self._waiting, samples])
        count = len(samples) // FRAME
        frames = samples[: count * FRAME].reshape(count, FRAME)
        self._waiting = samples[count * FRAME :]
        powers = np.einsum("fs,fs->f", frames, frames, dtype=np.float64) / FRAME
        powers[~np.isfinite(powers)] = 0.0
        parts: list[Part] = []
        pieces: list[list[NDArray[np.float32]]] = []  # of the samples of each part
        for frame, power in zip(frames, powers.tolist(), strict=True):
            self._measure(power)
            self._recent.append(frame)
            self._sort(frame, parts, pieces)
            self._position += FRAME
        for part, of_part in zip(parts, pieces, strict=True):
            part.samples = np.concatenate([part.samples, *of_part])
        return parts

    def finish(self) -> list[Part]:
        """The end of an utterance that goes on; nothing follows."""
        ended = [Part(self._position, self._waiting, ends=True)] if self._open else []
        self._open = False
        return ended

    def _measure(self, power: float) -> None:
        self._powers.append(power)
        self._history[self._count % _HISTORY] = power
        self._count += 1
        if self._count % _PERIOD:
            return
        history = self._history[: self._count]
        place = int(_NOISE_QUANTILE * len(history))
        noise = float(np.partition(history, place)[place])
        newest = (self._count - 1) % _HISTORY + 1
        self._loudest = max(self._loudest, float(history[newest - _PERIOD : newest].mean()))
        limit = min(noise * _ABOVE_NOISE, self._loudest * _BELOW_SPEECH)
        self._threshold = max(_INAUDIBLE, limit)

    def _sort(
        self,
        frame: NDArray[np.float32],
        parts: list[Part],
        pieces: list[list[NDArray[np.float32]]],
    ) -> None:
        """Add the newest frame to what it belongs to."""
        nothing = np.zeros(0, dtype=np.float32)
        if self._open and not parts:
            parts.append(Part(self._position, nothing))
            pieces.append([])
        if self._open:
            pieces[-1].append(frame)
            if self._is_quiet(0):
                parts[-1].ends, parts[-1].quiet = True, (self._pause - self._kept) * FRAME
                self._open = False
                return
        onset = self._onset()
        if not onset:
            return
        recent = list(self._recent)[-(onset + self._kept) :]
        if self._open:
            parts[-1].ends, parts[-1].quiet = True, len(recent) * FRAME
        self._open, self._begun = True, self._count - len(recent)
        parts.append(Part(self._begun * FRAME, nothing, begins=True))
        pieces.append(recent)

    def _onset(self) -> int:
        """Frames since an utterance has begun that is none yet; 0: there is none."""
        if not self._open:
            return _ONSET if self._is_loud(_ONSET) else 0
        # A threshold that has risen tells afterwards that there was a pause.
        if self._count % _PERIOD == 0:
            for onset in range(_ONSET, _NOTICED + 1):
                is_of_this = self._count - onset - self._pause >= self._begun
                if is_of_this and self._is_loud(onset) and self._is_quiet(onset):
                    return onset
        return 0

    def _is_loud(self, onset: int) -> bool:
        """Whether the first frames of so many are above the threshold."""
        powers = list(self._powers)[-onset:]
        return len(powers) == onset and min(powers[:_ONSET]) > self._threshold

    def _is_quiet(self, after: int) -> bool:
        """Whether a pause ends so many frames ago."""
        powers = list(self._powers)[-(self._pause + after) :][: self._pause]
        return len(powers) == self._pause and max(powers) <= self._threshold
