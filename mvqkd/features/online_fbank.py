"""Features of a stream, equal to those of the whole utterance."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from lhotse.features.kaldi.layers import create_frame_window, get_mel_banks
from numpy.typing import NDArray
from torch import Tensor

from mvqkd.geometry import NUM_BINS, SAMPLE_RATE, num_features
from mvqkd.geometry import SHIFT_SAMPLES as SHIFT
from mvqkd.geometry import WINDOW_SAMPLES as WINDOW

BEFORE = (WINDOW - SHIFT) // 2
"""Samples of the first window that lie before the utterance; Kaldi's `snip_edges=False` mirrors the
first samples there."""
_FFT = 512
_PREEMPHASIS = 0.97
_LOWEST, _HIGHEST = 20.0, -400.0
"""Hz, of the mel bins; a negative one counts from half the sample rate."""
_FLOOR = np.finfo(np.float32).eps


class OnlineFbank:
    """Log-mel features as samples arrive (lhotse's `Fbank` defaults, `snip_edges=False`).

    A frame is given out as soon as its window has arrived: 17.5 ms after the frame's centre. At the
    end the last samples are mirrored, as for a whole utterance.

    It is in NumPy, whose calls cost less than torch's: in a stream of one small model they count.
    """

    def __init__(self, num_bins: int = NUM_BINS) -> None:
        self._num_bins = num_bins
        self._num_samples = 0
        self._num_frames = 0
        # From the beginning of the next frame's window on; the mirrored beginning is in it once
        # there are enough samples to mirror.
        self._samples = np.zeros(0, np.float32)

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
        arrived = samples.detach().float().cpu().numpy()
        self._samples = np.concatenate([self._samples, arrived])
        if self._num_samples < BEFORE:
            return self._nothing()
        if before < BEFORE:
            self._samples = np.concatenate([self._samples[:BEFORE][::-1], self._samples])
        return self._extract()

    def finish(self) -> Tensor:
        """The frames (T, C) whose windows reach past the end; none of less than 9 ms of sound."""
        total = num_features(self._num_samples)
        missing = (total - 1 - self._num_frames) * SHIFT + WINDOW - len(self._samples)
        if self._num_samples < BEFORE or missing > self._num_samples:
            return self._nothing()  # too short to mirror; lhotse fails there
        if missing > 0:
            self._samples = np.concatenate([self._samples, self._samples[-missing:][::-1]])
        return self._extract()

    def _extract(self) -> Tensor:
        if len(self._samples) < WINDOW:
            return self._nothing()
        num_frames = 1 + (len(self._samples) - WINDOW) // SHIFT
        with np.errstate(all="ignore"):  # who receives the frames looks for what is not finite
            frames = _log_mel(self._samples, num_frames, self._num_bins)
        self._samples = self._samples[num_frames * SHIFT :]
        self._num_frames += num_frames
        return torch.from_numpy(frames)

    def _nothing(self) -> Tensor:
        return torch.zeros(0, self._num_bins)


def _log_mel(samples: NDArray[np.float32], num_frames: int, num_bins: int) -> NDArray[np.float32]:
    """(S,) contiguous -> (num_frames, num_bins), of windows from the first sample on."""
    size = samples.itemsize
    windows = np.ndarray((num_frames, WINDOW), samples.dtype, samples, 0, (SHIFT * size, size))
    centred = windows - np.add.reduce(windows, axis=1, keepdims=True) / np.float32(WINDOW)
    padded = np.zeros((num_frames, _FFT), np.float32)
    emphasized = padded[:, :WINDOW]
    # The sample before a window's first one is taken to be equal to it.
    np.multiply(centred[:, :1], 1 - _PREEMPHASIS, out=emphasized[:, :1])
    np.multiply(centred[:, :-1], -_PREEMPHASIS, out=emphasized[:, 1:])
    emphasized[:, 1:] += centred[:, 1:]
    emphasized *= _window()
    spectrum = np.fft.rfft(padded)
    power = spectrum.real**2
    power += spectrum.imag**2
    energies = power @ _mel_bins(num_bins)
    np.maximum(energies, _FLOOR, out=energies)
    return np.log(energies, out=energies)


@cache
def _window() -> NDArray[np.float32]:
    window: NDArray[np.float32] = create_frame_window(WINDOW, window_type="povey").numpy()
    return window


@cache
def _mel_bins(num_bins: int) -> NDArray[np.float32]:
    """(_FFT / 2 + 1, num_bins)."""
    weights, _ = get_mel_banks(num_bins, _FFT, SAMPLE_RATE, _LOWEST, _HIGHEST)
    found = np.zeros((_FFT // 2 + 1, num_bins), np.float32)
    found[:-1] = weights.numpy().T
    return found
