"""multi_quantization's training, that can be stopped and goes on.

With its default of 10 000 + 10 000 steps it takes hours of a core. Its state is kept in a file now
and then. Most steps choose their codes by `cached_refinement`, which finds the same.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from cached_refinement import cached_refinement
from torch import Tensor
from tqdm import tqdm

from mvqkd.storage.files import atomic_path


def train_reference(
    x: Tensor,
    num_codebooks: int,
    steps: tuple[int, int],
    kept: Path | None,
    seconds: Callable[[], float],
    *,
    seed: int,
    timed_every: int = 200,
    kept_every: int = 200,
) -> tuple[torch.nn.Module, float]:
    """Train a `multi_quantization.Quantizer` by the package, 600 frames a step.

    Of its steps two in `timed_every` run as the package has them, the second timed.

    Args:
        x: (T, D) float32 frames.
        num_codebooks: of 256 entries, 1 to 32.
        steps: of the trainer's two phases.
        kept: where the state is kept every `kept_every` steps; None: nowhere.
        seconds: a clock.
        seed: of all that is random.

    Returns:
        The quantizer and the seconds that all steps would have taken as the package has them.
    """
    from multi_quantization import QuantizerTrainer

    torch.manual_seed(seed)
    random.seed(seed)
    trainer = QuantizerTrainer(x.shape[1], num_codebooks, torch.device("cpu"), *steps)
    spent = 0.0
    if kept is not None and kept.exists():
        spent = _load(trainer, kept)
    with tqdm(total=sum(steps), initial=trainer.cur_iter, unit="step", mininterval=10) as progress:
        while not trainer.done():
            frames = x[torch.randint(len(x), (600,))]
            progress.update()
            now = progress.n % timed_every - 25  # not where it logs extra losses
            if now not in (0, 1):
                with cached_refinement():
                    trainer.step(frames)
            else:
                begin = seconds()
                trainer.step(frames)
                if now == 1:  # memory is warm
                    spent += timed_every * (seconds() - begin)
            if kept is not None and trainer.cur_iter % kept_every == 0:
                _save(trainer, spent, kept)
    return trainer.get_quantizer(), spent


def _save(trainer: Any, spent: float, kept: Path) -> None:
    state = {
        "steps": trainer.cur_iter,
        "seconds": spent,
        "random": random.getstate(),
        "torch_random": torch.get_rng_state(),
    }
    for part in ("quantizer", "optim", "scheduler"):
        state[part] = getattr(trainer, part).state_dict()
    with atomic_path(kept) as path:
        torch.save(state, path)


def _load(trainer: Any, kept: Path) -> float:
    state = torch.load(kept, weights_only=True)
    if state["steps"] > trainer.phase_one_iters:  # twice as few codebooks, of 256 entries, by then
        trainer._begin_second_phase()
    trainer.cur_iter = state["steps"]
    for part in ("quantizer", "optim", "scheduler"):
        getattr(trainer, part).load_state_dict(state[part])
    version, numbers, gauss = state["random"]
    random.setstate((version, tuple(numbers), gauss))
    torch.set_rng_state(state["torch_random"])
    return float(state["seconds"])
