"""Distillation for streaming students on two processes, with both denominators of a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as multiprocessing
from torch.testing import assert_close

from mvqkd.data.loading.batch import Batch
from mvqkd.distillation import DualMode, OutputDistillation
from mvqkd.features.spec_augment import SpecAugment
from mvqkd.runtime.distributed import World
from mvqkd.runtime.interruption import Interruption
from mvqkd.training.metrics import read_metrics
from mvqkd.training.objective import Objective
from mvqkd.training.trainer import Trainer
from tests.distillation.test_auxiliary import auxiliary
from tests.distillation.test_outputs import teacher
from tests.training.helpers import (
    FixedSteps,
    free_port,
    make_batch,
    make_objective,
    make_trainer,
    one_of_two,
    weights,
)

NAMES = ("layers", "outputs", "path", "dual_mode", "lattice")


def student(seed: int) -> Objective:
    """All losses at once; those of layers are of audio without transcripts too."""
    losses = {
        "layers": auxiliary(),
        "outputs": OutputDistillation(teacher(), weight=0.1, delay=1),
        "path": OutputDistillation(teacher(), weight=0.2, best_path=True, collapsed=True),
        "dual_mode": DualMode(weight=0.3, final_weight_fraction=0.5),
        "lattice": DualMode(weight=0.3, kind="lattice", symmetric=True),
    }
    return make_objective(
        seed=seed,
        distillation=losses,
        causal=True,
        chunk_sizes=[2, 4, -1],
        left_context=4,
        full_context_weight=0.5,
    )


def train(folder: Path, steps: list[list[Batch]], world: World | None = None) -> Trainer:
    """Other initial weights on each process: those of the first count."""
    objective = student(world.rank if world else 0)
    # Linear in the gradient: Adam would blow up rounding where the true gradient is zero.
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.01)
    augment = SpecAugment(time_mask_size=10, frequency_mask_size=4)
    trainer = make_trainer(
        folder,
        world=world,
        objective=objective,
        train=FixedSteps(steps),
        valid=[make_batch("v1"), make_batch("v2")][world.rank if world else 0 :],
        num_epochs=1,
        log_interval=1,
        updater_options={"optimizer": optimizer, "augment": augment},
    )
    assert trainer.run(Interruption())
    return trainer


def losses_of(folder: Path) -> list[dict[str, float]]:
    """Those of every step."""
    lines = read_metrics(folder / "log" / "metrics.jsonl")
    names = ("loss", "recognition_loss", "pruned", "grad_norm", "pruned_full_context")
    parts = [f"layers.{part}" for part in ("feature", "relation", "future")]
    return [
        {name: line[name] for name in (*names, *NAMES, *parts) if line.get(name) is not None}
        for line in lines
        if line["kind"] == "train"
    ]


def process(
    rank: int,
    port: int,
    folder: Path,
    shares: list[list[list[Batch]]],
    expected: dict[str, torch.Tensor],
    losses: list[dict[str, float]],
) -> None:
    """One of two: trains on its shares of the steps and compares with what one process had."""
    with one_of_two(rank, port) as world:
        trainer = train(folder, shares[rank], world)
        for key, value in weights(trainer.updater.objective).items():
            assert_close(value, expected[key], rtol=1e-5, atol=1e-5, msg=key)
        if world.is_main:
            for line, wanted in zip(losses_of(folder), losses, strict=True):
                assert line == pytest.approx(wanted, rel=1e-4, abs=1e-6)


def made_steps() -> list[list[list[Batch]]]:
    """Shares of two processes of each step: of several batches, of one without transcripts beside
    one with them, of a process without any, and of no transcripts at all."""
    batches = [
        make_batch(f"x{i}", f"y{i}", frames=30 + i, tokens=2 + i % 3, labelled=i % 3 != 1)
        for i in range(8)
    ]
    unlabelled = [make_batch(f"z{i}", frames=34 + i, labelled=False) for i in range(2)]
    return [
        [batches[0:2], batches[4:5], batches[6:7], unlabelled[:1], batches[7:8]],
        [batches[2:4], batches[5:6], [], unlabelled[1:], unlabelled[:1]],
    ]


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    shares = made_steps()
    whole = [[*one, *other] for one, other in zip(*shares, strict=True)]
    alone = train(tmp_path / "one", whole)
    losses = losses_of(tmp_path / "one")
    assert len(losses) == 5 and {name for line in losses for name in line} >= {*NAMES}
    expected: Any = weights(alone.updater.objective)
    arguments = (free_port(), tmp_path / "two", shares, expected, losses)
    multiprocessing.spawn(process, arguments, nprocs=2)
