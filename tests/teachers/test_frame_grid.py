"""Where teachers say that their frames lie is where the audio lies that they are computed from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mvqkd.geometry import SAMPLE_RATE
from mvqkd.teachers import Teacher, load_teacher


def centers(
    teacher: Teacher, front_end: Callable[[torch.Tensor], torch.Tensor], frames: list[int]
) -> list[float]:
    """Middle of the samples that a frame (T, D) of the front end depends on, in seconds."""
    found = []
    for frame in frames:
        wave = (0.1 * torch.randn(SAMPLE_RATE)).requires_grad_()
        front_end(wave)[frame].double().square().sum().backward()
        assert wave.grad is not None
        touched = wave.grad.nonzero()
        found.append(float(touched.min() + touched.max() + 1) / 2 / SAMPLE_RATE)
    return found


def expected(teacher: Teacher, frames: list[int]) -> list[float]:
    return [teacher.first_frame + frame / teacher.frame_rate for frame in frames]


def test_hubert(save_variant: Callable[..., Path]) -> None:
    teacher = load_teacher(f"hf:{save_variant('hubert-large')}", [1])
    frames = [0, 3, 10]
    found = centers(teacher, lambda wave: teacher.backbone.convolve(wave[None])[0], frames)  # type: ignore[attr-defined]
    assert found == pytest.approx(expected(teacher, frames), abs=1 / SAMPLE_RATE)


def test_whisper(save_variant: Callable[..., Path]) -> None:
    teacher = load_teacher(f"hf:{save_variant('whisper')}?silence=1", [0])
    length, frame = SAMPLE_RATE // 2, 7
    tone = 0.5 * torch.sin(torch.arange(length) * 2 * torch.pi * 1000 / SAMPLE_RATE)
    # A click at different times, in a tone that keeps the loudest window what it is.
    middle = round(expected(teacher, [frame])[0] * SAMPLE_RATE)
    places = torch.arange(middle - 1600, middle + 1600, 40)
    waves = tone.repeat(len(places) + 1, 1)
    waves[torch.arange(len(places)), places] += 0.1
    with torch.no_grad():
        output = teacher(waves, torch.full((len(waves),), length)).layers[0][:, frame]
    response = (output[:-1] - output[-1]).norm(dim=1)
    # Windows and taps end symmetrically around the frame, whatever their weights are.
    touched = places[response > 1e-4 * response.max()]
    center = float(touched.min() + touched.max()) / 2 / SAMPLE_RATE
    assert center == pytest.approx(middle / SAMPLE_RATE, abs=0.004)
    assert 0.03 < float(touched.max() - touched.min()) / SAMPLE_RATE < 0.08
