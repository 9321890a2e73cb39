"""Features of a stream, equal to those of the whole utterance."""

from __future__ import annotations

import warnings
from functools import cache

import torch
from lhotse.features.kaldi.layers import Wav2LogFilterBank
from torch import Tensor

from mvqkd.geometry import NUM_BINS, SAMPLE_RATE, num_features
from mvqkd.geometry import SHIFT_SAMPLES as SHIFT
from mvqkd.geometry import WINDOW_SAMPLES as WINDOW

BEFORE = (WINDOW - SHIFT) // 2
"""Samples of the first window that lie before the utterance; Kaldi's `snip_edges=False` mirrors the
first samples there."""


class OnlineFbank:
    """Log-mel features as samples arrive (lhotse's `Fbank` defaults, `snip_edges=False`).

    A frame is given out as soon as its window has arrived: 17.5 ms after the frame's centre. At the
    end the last samples are mirrored, as for a whole utterance.
    """

    def __init__(self, num_bins: int = NUM_BINS) -> None:
        self._fbank = _filterbank(num_bins)
        self._num_bins = num_bins
        self._num_samples = 0
        self._num_frames = 0
        # From the beginning of the next frame's window on; the mirrored beginning is in it once
        # there are enough samples to mirror.
        self._samples = torch.zeros(0)

    def accept(self, samples: Tensor) -> Tensor:
        """Samples (S,) in [-1, 1] at 16 kHz -> the frames (T, C) that they complete; T may be 0.

        Raises:
            ValueError: samples are integers, as sound cards give them, or of several channels.
        """
        if samples.ndim != 1 or not samples.is_floating_point():
            raise ValueError(
                f"samples must be (S,) floating-point numbers in [-1, 1], not {samples.dtype} of "
                f"shape {tuple(samples.shape)}: divide 16-bit integers by 32768, choose a channel"
            )
        before = self._num_samples
        self._num_samples += len(samples)
        self._samples = torch.cat([self._samples, samples.to(torch.float32).cpu()])
        if self._num_samples < BEFORE:
            return self._nothing()
        if before < BEFORE:
            self._samples = torch.cat([self._samples[:BEFORE].flip(0), self._samples])
        return self._extract()

    def finish(self) -> Tensor:
        """The frames (T, C) whose windows reach past the end; none of less than 9 ms of sound."""
        total = num_features(self._num_samples)
        missing = (total - 1 - self._num_frames) * SHIFT + WINDOW - len(self._samples)
        if self._num_samples < BEFORE or missing > self._num_samples:
            return self._nothing()  # too short to mirror; lhotse fails there
        if missing > 0:
            self._samples = torch.cat([self._samples, self._samples[-missing:].flip(0)])
        return self._extract()

    def _extract(self) -> Tensor:
        if len(self._samples) < WINDOW:
            return self._nothing()
        num_frames = 1 + (len(self._samples) - WINDOW) // SHIFT
        needed = (num_frames - 1) * SHIFT + WINDOW
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            frames = self._fbank(self._samples[None, :needed])[0]
        self._samples = self._samples[num_frames * SHIFT :]
        self._num_frames += num_frames
        return frames.clone()

    def _nothing(self) -> Tensor:
        return torch.zeros(0, self._num_bins)


@cache
def _filterbank(num_bins: int) -> Wav2LogFilterBank:
    """One for all streams: it has no state."""
    # Windows are laid out above, so here only those that lie within the samples are wanted; the
    # warning that lhotse has about that does not apply.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return Wav2LogFilterBank(
            sampling_rate=SAMPLE_RATE, num_filters=num_bins, dither=0.0, snip_edges=True
        ).eval()
