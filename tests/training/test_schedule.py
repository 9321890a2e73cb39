"""Schedules against their closed forms."""

from __future__ import annotations

import math

import pytest

from mvqkd.training.schedule import cosine, eden, loss_scales, noam


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (1, 0.1),
        (5, 0.5),
        (10, 1.0),
        (35, 0.2 + 0.8 * (1 + math.sqrt(0.5)) / 2),
        (60, 0.6),
        (110, 0.2),
        (500, 0.2),
    ],
)
def test_cosine(step, expected):
    value = cosine(step, warmup_steps=10, total_steps=110, final_fraction=0.2)
    assert value == pytest.approx(expected)


@pytest.mark.parametrize(
    ("step", "expected"), [(1, 0.01), (50, 0.5), (100, 1.0), (400, 0.5), (10000, 0.1)]
)
def test_noam(step, expected):
    assert noam(step, warmup_steps=100) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("step", "epoch", "expected"),
    [
        (1, 0.0, 0.5 + 0.5 / 10),
        (5, 0.0, 0.75 * ((5 / 100) ** 2 + 1) ** -0.25),
        (100, 0.0, 2**-0.25),
        (100, 3.0, 2**-0.5),
        (10**6, 3e4, 1e-2 * 1e-2),
    ],
)
def test_eden(step, epoch, expected):
    value = eden(step, epoch=epoch, warmup_steps=10, decay_steps=100, decay_epochs=3)
    assert value == pytest.approx(expected, rel=2e-3)


def test_without_warm_up_the_first_step_has_the_peak():
    assert noam(1, warmup_steps=0) == 1.0
    assert cosine(1, warmup_steps=0, total_steps=10**9) == pytest.approx(1.0)


def test_training_shorter_than_its_warm_up():
    assert cosine(7, warmup_steps=10, total_steps=8) == 0.7
    assert cosine(10, warmup_steps=10, total_steps=8, final_fraction=0.3) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("step", "expected"), [(0, (1.0, 0.1)), (50, (0.75, 0.55)), (100, (0.5, 1.0)), (999, (0.5, 1))]
)
def test_loss_scales(step, expected):
    assert loss_scales(step, warmup_steps=100, simple_scale=0.5) == pytest.approx(expected)


def test_no_warm_up_of_the_losses():
    assert loss_scales(0, warmup_steps=0, simple_scale=0.3) == (0.3, 1.0)
