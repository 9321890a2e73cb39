"""Resampling of a stream, equal to that of the whole signal.

Bandlimited interpolation by a sinc under a Hann window of six zero crossings (J. O. Smith, Digital
Audio Resampling), with the cutoff of lhotse and torchaudio: 0.99 of the lower Nyquist frequency.
The filter has a phase for each of `new / gcd` outputs, of some tens of taps each, so that it is
small at any rate.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mvqkd.geometry import SAMPLE_RATE

_ZEROS = 6
"""Zero crossings of the sinc on either side."""
_ROLLOFF = 0.99
_BLOCK = 1 << 14
"""Outputs computed at once: memory."""


class OnlineResample:
    """Samples as they arrive, at another rate.

    >>> resample = OnlineResample(8000)
    >>> len(resample.accept(np.zeros(8000, np.float32))) + len(resample.finish())
    16000

    Args:
        source: Hz, of what is accepted.
        target: Hz, of what is given out.

    Raises:
        ValueError: a rate is not positive.
    """

    def __init__(self, source: int, target: int = SAMPLE_RATE) -> None:
        if min(source, target) < 1:
            raise ValueError(f"rates of {source} and {target} Hz: they are positive")
        divisor = math.gcd(source, target)
        self._source, self._target = source // divisor, target // divisor
        self._identity = source == target
        cutoff = _ROLLOFF * min(self._source, self._target) / self._source
        self._reach = math.ceil(_ZEROS / cutoff)  # samples on either side of an output
        self._kernels = self._filters(cutoff)
        # From the first sample that the next output needs on; the beginning is padded by zeros.
        self._samples = np.zeros(self._reach, dtype=np.float32)
        self._begin = -self._reach
        self._accepted = 0
        self._given = 0

    def accept(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Samples (S,) -> those of the other rate that they complete."""
        if self._identity:
            return samples
        self._accepted += len(samples)
        self._samples = np.concatenate([self._samples, samples])
        # Output n lies at sample n * source / target, and needs as many behind it as before it.
        last = self._accepted - self._reach - 1
        return self._give(max(self._given, -(-last * self._target // self._source)))

    def finish(self) -> NDArray[np.float32]:
        """The rest, up to ceil(S * target / source) in all; nothing follows."""
        if self._identity:
            return np.zeros(0, dtype=np.float32)
        self._samples = np.concatenate([self._samples, np.zeros(2 * self._reach + 1, np.float32)])
        return self._give(-(-self._accepted * self._target // self._source))

    def _give(self, end: int) -> NDArray[np.float32]:
        """Outputs up to, without, `end`."""
        given = [np.zeros(0, dtype=np.float32)]
        for begin in range(self._given, end, _BLOCK):
            numbers = np.arange(begin, min(begin + _BLOCK, end))
            places, phases = np.divmod(numbers * self._source, self._target)
            windows = np.lib.stride_tricks.sliding_window_view(
                self._samples, self._kernels.shape[1]
            )[places - self._reach - self._begin]
            given.append(np.einsum("nk,nk->n", windows, self._kernels[phases]))
        self._given = end
        unneeded = end * self._source // self._target - self._reach - self._begin
        if unneeded > 0:
            self._samples = self._samples[unneeded:]
            self._begin += unneeded
        return np.concatenate(given)

    def _filters(self, cutoff: float) -> NDArray[np.float32]:
        """(target, 2 * reach + 2): taps for an output that lies p / target behind a sample."""
        if self._identity:
            return np.zeros((1, 1), dtype=np.float32)
        offsets = np.arange(-self._reach, self._reach + 2)
        phases = np.arange(self._target)[:, None] / self._target
        t = np.clip((offsets - phases) * cutoff, -_ZEROS, _ZEROS)
        window = np.cos(t * np.pi / _ZEROS / 2) ** 2
        return (cutoff * np.sinc(t) * window).astype(np.float32)
