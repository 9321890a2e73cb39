"""One update of the weights: forward and backward over a step's batches, then the optimizer."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from mvqkd.data.loading.batch import Batch
from mvqkd.errors import UserError
from mvqkd.features.spec_augment import SpecAugment
from mvqkd.runtime.distributed import World
from mvqkd.training.clipping import GradientClipper
from mvqkd.training.diagnostics import describe, save_batch
from mvqkd.training.objective import Losses, Objective
from mvqkd.training.optimizers import set_learning_rate
from mvqkd.training.seeding import choose, derive_seed
from mvqkd.training.sums import LossSums

Precision = Literal["float32", "bfloat16", "float16"]

# Below this, float16 gradients overflow whatever the scale: something else is wrong.
_SMALLEST_GRAD_SCALE = 1e-3


@dataclass
class Update:
    """What came of an update."""

    sums: LossSums | None
    """This process's losses; None if the step was skipped: some value was not finite."""
    grad_norm: float
    """Of the gradient per encoder frame, before clipping."""
    clip_factor: float
    """What the gradient was multiplied with; 1 without clipping."""
    nonfinite_ids: list[str]
    """Utterances of the batches for which a step was skipped, of all processes."""


class Updater:
    """Takes a step from the batches of all processes.

    Recognition and distillation losses are summed over all batches of a step, of all processes, and
    divided by their labelled and by all their encoder frames: so several processes or accumulated
    batches give the gradient of one big batch.

    Chunk sizes are seeded from (seed, step) and SpecAugment from (seed, step, utterance): they are
    the same however a step is divided. Dropout is not: it is seeded from (seed, step, number of the
    batch, rank).

    Args:
        objective: on the device of `world`.
        optimizer: over its parameters.
        world: all processes.
        seed: of dropout, augmentation and chunk sizes.
        precision: of the forward pass, by autocast; losses are float32.
        clip_grad_ratio: see `GradientClipper`; 0: no clipping.
        augment: applied to features of training batches.
        views: times that each utterance is in a step, each time augmented differently.
        log_dir: where batches are kept for inspection when something breaks.
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        *,
        world: World,
        seed: int,
        precision: Precision = "float32",
        clip_grad_ratio: float = 4.0,
        augment: SpecAugment | None = None,
        views: int = 1,
        log_dir: Path,
    ) -> None:
        self.objective = objective
        self.optimizer = optimizer
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=precision == "float16")
        self.world = world
        self._seed = seed
        self._dtype = getattr(torch, precision)
        self.clip = GradientClipper(clip_grad_ratio)
        self._augment = augment
        self._views = views
        self._log_dir = log_dir
        # Of weights with a dimension of 1, whose two layouts are the same memory.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        self._parallel = (
            DistributedDataParallel(
                objective,
                device_ids=[world.device] if world.device.type == "cuda" else None,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
            )
            if world.size > 1
            else None
        )

    def autocast(self) -> AbstractContextManager[object]:
        """The precision of forward passes."""
        enabled = self._dtype != torch.float32
        return torch.autocast(
            self.world.device.type, dtype=self._dtype if enabled else None, enabled=enabled
        )

    def update(
        self,
        batches: Sequence[Batch],
        *,
        step: int,
        frames: float,
        labelled_frames: float,
        learning_rate: float,
        progress: float = 0.0,
    ) -> Update:
        """One step; every process must call it.

        Args:
            batches: of this process, on the CPU; none if it has no part of the step.
            step: counts from 1.
            frames: encoder frames of the batches of all processes.
            labelled_frames: those of them that have hypotheses.
            learning_rate: of this step.
            progress: fraction of the training that is done.
        """
        self.optimizer.zero_grad(set_to_none=True)
        set_learning_rate(self.optimizer, learning_rate)
        sums = LossSums()
        totals: list[Tensor] = []
        for number, batch in enumerate(batches or [None]):
            is_last = number >= len(batches) - 1
            try:
                with self._synchronization(is_last):
                    losses = self._forward(batch, step, number, progress)
                    # DistributedDataParallel takes the mean over processes.
                    total = losses.total(labelled_frames * self._views, frames * self._views)
                    total = total * self.world.size
                    # A loss can be infinite and have no gradient, where an utterance has no
                    # alignment: then the gradient is made to show it.
                    total = total * torch.where(total.isfinite(), 1.0, torch.nan)
                    self.scaler.scale(total).backward()
            except Exception as error:
                if batch is not None:
                    self._keep_failed(batch, step, error)
                raise
            sums.add(losses)
            totals.append(total.detach())

        self.scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm, factor = self.clip(parameters)
        # The gradient is the same on all processes, so they agree without asking each other.
        if math.isfinite(norm):
            self.scaler.step(self.optimizer)
            self.scaler.update()
            return Update(sums, norm, factor, [])
        self.scaler.update()
        return Update(None, norm, 1.0, self._name_nonfinite(batches, totals, step))

    def _forward(self, batch: Batch | None, step: int, number: int, progress: float) -> Losses:
        torch.manual_seed(derive_seed(self._seed, "step", step, number, self.world.rank))
        model = self._parallel or self.objective
        if batch is None:
            return model(None)
        batch = batch.to(self.world.device)
        if self._views > 1:
            batch = batch.repeat(self._views)
        features = time_mask = None
        if self._augment is not None:
            size = len(batch) // self._views
            seeds = [
                derive_seed(self._seed, "augment", step, name, number // size)
                for number, name in enumerate(batch.ids)
            ]
            features, time_mask = self._augment(batch.features, batch.feature_lens, seeds)
        chunk_size = choose(self.objective.chunk_sizes, self._seed, "chunk", step)
        with self.autocast():
            return model(
                batch,
                features=features,
                time_mask=time_mask,
                step=step,
                progress=progress,
                chunk_size=chunk_size,
            )

    def _synchronization(self, is_last: bool) -> AbstractContextManager[object]:
        if self._parallel is None or is_last:
            return nullcontext()
        return self._parallel.no_sync()

    def _name_nonfinite(
        self, batches: Sequence[Batch], totals: Sequence[Tensor], step: int
    ) -> list[str]:
        """Ids of the batches to blame, of all processes; none if float16 overflowed, which the
        gradient's scale is made for."""
        blamed = [
            batch
            for batch, total in zip(batches, totals, strict=False)
            if not math.isfinite(float(total))
        ]
        if self.world.sum([len(blamed)]) == [0.0]:
            if self.scaler.is_enabled():
                self._check_scale()
                return []
            blamed = list(batches)  # only the gradient is not finite: any of them may be the cause
        for number, batch in enumerate(blamed):
            path = self._log_dir / f"nonfinite-step{step}-rank{self.world.rank}-{number}.pt"
            save_batch(path, batch, step=step)
        ids = [name for batch in blamed for name in batch.ids]
        return [name for names in self.world.gather(ids) for name in names]

    def _check_scale(self) -> None:
        if self.scaler.get_scale() < _SMALLEST_GRAD_SCALE:
            raise UserError(
                f"gradients overflow float16 even at a scale of {self.scaler.get_scale():g}",
                remedy="take bfloat16",
                parameters=("precision",),
            )

    def _keep_failed(self, batch: Batch, step: int, error: Exception) -> None:
        path = self._log_dir / f"failed-step{step}-rank{self.world.rank}.pt"
        save_batch(path, batch, step=step, error=f"{type(error).__name__}: {error}")
        logging.error("step %d failed on a batch kept in %s: %s", step, path, describe(batch))
