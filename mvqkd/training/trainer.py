"""The training loop: epochs of updates, with logs, validations and checkpoints in between.

What happens at a step depends only on the configuration, the step and the weights, so a training
that was stopped anywhere and resumed from its last checkpoint takes the same steps as one that
never stopped.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from mvqkd.checkpoints import files as checkpoint
from mvqkd.checkpoints.averaging import TrainingAverage
from mvqkd.data.loading.batch import Batch
from mvqkd.errors import UserError
from mvqkd.runtime.interruption import Interruption
from mvqkd.training.clipping import GradientClipper
from mvqkd.training.diagnostics import TranscribedSample, loss_trouble
from mvqkd.training.metrics import (
    LogInterval,
    MetricsLog,
    line_for_people,
    used_memory,
    x_real_time,
)
from mvqkd.training.progress import Progress
from mvqkd.training.protocols import LoopSettings, Steps
from mvqkd.training.sums import per_frame
from mvqkd.training.update import Updater
from mvqkd.training.validation import Transcribe, log_transcripts, validate

_UPDATES_PER_EPOCH = 10


class _Amounts(NamedTuple):
    """What a step holds, over all processes."""

    frames: float
    """Encoder frames."""
    labelled_frames: float
    """Those of them that have hypotheses."""
    seconds: float
    """Of audio."""


class Trainer:
    """Trains an objective.

    Args:
        updater: holds the objective and the optimizer.
        config: of the loop.
        exp_dir: for checkpoints and logs.
        train_steps: of this process.
        valid_batches: of this process.
        learning_rate: as a function of the step (from 1) and of the number of steps of the
            whole training.
        description: JSON-able; kept in each file of weights.
        transcribe: what the student makes of validation batches.
        other_valid: by name, batches of other data, whose losses are logged apart, before the first
            step too; they do not choose the best weights.
    """

    def __init__(
        self,
        updater: Updater,
        config: LoopSettings,
        *,
        exp_dir: Path,
        train_steps: Steps,
        valid_batches: Iterable[Batch],
        learning_rate: Callable[[int, int], float],
        description: dict[str, Any],
        transcribe: Transcribe | None = None,
        other_valid: Mapping[str, Iterable[Batch]] | None = None,
    ) -> None:
        self.progress = Progress()
        self.updater = updater
        self._objective = updater.objective
        self._world = updater.world
        self._config = config
        self._exp_dir = exp_dir
        self._train_steps = train_steps
        self._valid_batches = valid_batches
        self._learning_rate = learning_rate
        self._description = description
        self._transcribe = transcribe
        self._other_valid = dict(other_valid or {})
        self._average = TrainingAverage(self._objective.model, self._objective.head_losses)
        self._interval = LogInterval()
        self._log: MetricsLog | None = None
        self._started = 0.0

        train_steps.set_epoch(1)
        epoch_steps = len(train_steps)
        self._total_steps = config.num_epochs * epoch_steps
        # An epoch without an update of the running average could not be decoded with.
        self._average_period = min(config.average_period, max(1, epoch_steps // _UPDATES_PER_EPOCH))

    def run(self, interruption: Interruption) -> bool:
        """Train to the end, from the last checkpoint if there is one.

        Returns:
            Whether the end is reached; False if a signal came, after writing a checkpoint.

        Raises:
            UserError: too many values that are not finite, or a checkpoint that does not fit.
        """
        if self._world.is_main:
            checkpoint.remove_partial(self._exp_dir)
        self._world.wait()
        self._restore()
        self._started = time.monotonic() - self.progress.elapsed
        if self._world.is_main:
            self._log = MetricsLog(self._exp_dir, self.progress.step)
        try:
            if self._other_valid and not self.progress.step:
                self._validate_all()
            while self.progress.epoch <= self._config.num_epochs:
                if not self._train_epoch(interruption):
                    self._save_step()
                    logging.warning(
                        "stopped by %s at step %d; the same command goes on from there",
                        interruption.signal_name or "another process's signal",
                        self.progress.step,
                    )
                    return False
                self._end_epoch()
            self._refuse_no_result()
        finally:
            if self._log is not None:
                self._log.close()
        return True

    # ---- the loop -------------------------------------------------------------------------------

    def _train_epoch(self, interruption: Interruption) -> bool:
        """Train to the end of the epoch in progress; False if interrupted."""
        config, progress = self._config, self.progress
        self._train_steps.set_epoch(progress.epoch, progress.epoch_step)
        self._objective.train()
        with tqdm(
            desc=f"epoch {progress.epoch}",
            initial=progress.epoch_step,
            total=progress.epoch_step + len(self._train_steps),
            unit="step",
            disable=None if self._world.is_main else True,
            dynamic_ncols=True,
        ) as bar:
            for batches in self._train_steps:
                amounts = self._agree(batches, interruption)
                if amounts is None:
                    return False
                self._step(batches, amounts)
                bar.update()
                if progress.step % config.log_interval == 0:
                    self._report(bar)
                # Before the checkpoint, which else would not know of it: a killed training would
                # validate twice.
                if config.valid_interval and progress.step % config.valid_interval == 0:
                    self._validate()
                if progress.step % config.save_interval == 0:
                    self._save_step()
        return True

    def _agree(self, batches: list[Batch], interruption: Interruption) -> _Amounts | None:
        """What the step holds over all processes; None if one of them was asked to stop."""
        output_lens = self._objective.model.encoder.output_lens
        frames = [output_lens(batch.feature_lens) for batch in batches]
        labelled = [b.labelled_frames(x) for b, x in zip(batches, frames, strict=True)]
        seconds = sum(batch.seconds for batch in batches)
        totals = (sum(int(x.sum()) for x in frames), sum(map(int, labelled)))
        *amounts, stop = self._world.sum([*totals, seconds, interruption.requested])
        return None if stop else _Amounts(*amounts)

    def _step(self, batches: list[Batch], amounts: _Amounts) -> None:
        progress = self.progress
        progress.step += 1
        update = self.updater.update(
            batches,
            step=progress.step,
            frames=amounts.frames,
            labelled_frames=amounts.labelled_frames,
            learning_rate=self._learning_rate(progress.step, self._total_steps),
            progress=progress.step / self._total_steps,
        )
        progress.epoch_step += 1
        progress.audio_seconds += amounts.seconds
        self._interval.add(update)
        if update.nonfinite_ids:
            self._count_nonfinite(update.nonfinite_ids)
        if self._world.is_main and progress.step % self._average_period == 0:
            self._average.update()

    def _count_nonfinite(self, ids: list[str]) -> None:
        progress = self.progress
        progress.nonfinite += 1
        logging.warning(
            "step %d skipped (%d so far): a loss or gradient is not finite, of the utterances %s",
            progress.step,
            progress.nonfinite,
            ", ".join(ids),
        )
        if progress.nonfinite > self._config.max_nonfinite:
            raise UserError(
                f"{progress.nonfinite} steps were skipped because of values that are not "
                f"finite, more than max_nonfinite; their batches are in "
                f"{self._exp_dir / 'log'}/nonfinite-*.pt",
                remedy="look at those utterances; bfloat16 may help, or a lower learning rate in "
                "another folder",
                parameters=("precision", "learning_rate", "exp_dir"),
            )

    def _end_epoch(self) -> None:
        self._validate()
        if self._world.is_main:
            path = checkpoint.epoch_path(self._exp_dir, self.progress.epoch)
            checkpoint.save_checkpoint(path, self._weights())
        self.progress.epoch += 1
        self.progress.epoch_step = 0
        self._save_step()

    def _refuse_no_result(self) -> None:
        """A training that learned nothing, or came to weights that compute nothing, has failed."""
        progress = self.progress
        problem = None
        if progress.nonfinite >= progress.step:
            problem = "every step was skipped, since no loss or gradient was finite"
        elif progress.best_valid_loss is None:
            problem = "no validation had a finite loss"
        elif not all(value.isfinite().all() for value in self._objective.parameters()):
            problem = "the weights are not finite"
        if problem:
            raise UserError(
                f"{self._exp_dir}: training ended without a result: {problem}",
                remedy=f"look at {self._exp_dir / 'log' / 'train.log'}; a lower learning rate, "
                "other initial weights or other data, in another folder",
                parameters=("learning_rate", "exp_dir"),
            )

    # ---- reports --------------------------------------------------------------------------------

    def _report(self, bar: Any) -> None:
        """Log the interval since the last report, and begin a new one."""
        sums = self._interval.sums.over(self._world, self._objective.components)
        self._now()
        values = {
            **per_frame(sums),
            **self._interval.averages(),
            "learning_rate": self._learning_rate(self.progress.step, self._total_steps),
            "x_real_time": x_real_time(
                self.progress.audio_seconds - self._interval.audio_seconds,
                self.progress.elapsed - self._interval.elapsed,
            ),
        }
        memory = used_memory(self._world.device)
        if memory is not None:
            values["gpu_memory_gib"] = memory
        self._interval = LogInterval(self.progress.audio_seconds, self.progress.elapsed)
        self._write("train", values)
        if self._log is None:
            return
        bar.set_postfix_str(
            f"loss {values['loss']:.4f}, lr {values['learning_rate']:.2e}, "
            f"{values['x_real_time']:.0f} x real time"
        )
        lines = [x for x in self._log.lines if x["kind"] == "train" and x["loss"] is not None]
        for trouble in loss_trouble([line["loss"] for line in lines]):
            logging.warning("%s", trouble)

    def _validate(self) -> None:
        """Validate, unless that was done at this step before."""
        if self.progress.validated_step != self.progress.step:
            self._validate_all()

    def _validate_all(self) -> None:
        progress = self.progress
        progress.validated_step = progress.step
        values, transcripts = self._losses_on(self._valid_batches, self._transcribe)
        loss, least = values["recognition_loss"], progress.best_valid_loss
        best = progress.step > 0 and math.isfinite(loss) and (least is None or loss < least)
        if best:
            progress.best_valid_loss = loss
        self._write("valid", values, " (best)" if best else "")
        log_transcripts(transcripts)
        if best and self._world.is_main:
            checkpoint.save_checkpoint(self._exp_dir / checkpoint.BEST, self._weights())
        for name, batches in self._other_valid.items():
            self._write(f"valid/{name}", self._losses_on(batches)[0])

    def _losses_on(
        self, batches: Iterable[Batch], transcribe: Transcribe | None = None
    ) -> tuple[dict[str, float], list[TranscribedSample]]:
        autocast = self.updater.autocast
        return validate(
            self._objective, batches, world=self._world, autocast=autocast, transcribe=transcribe
        )

    def _write(self, kind: str, values: dict[str, float], remark: str = "") -> None:
        """A line of the log, on the main process."""
        self._now()
        if self._log is not None:
            values = {**self.progress.place, **values}
            self._log.write(kind, values)
            logging.info("%s%s", line_for_people(kind, values), remark)

    def _now(self) -> None:
        self.progress.elapsed = time.monotonic() - self._started

    # ---- files ----------------------------------------------------------------------------------

    def _weights(self) -> dict[str, Any]:
        return {
            "model": self._objective.model.state_dict(),
            "head_losses": self._objective.head_losses.state_dict(),
            **self._average.state(),
            "epoch": self.progress.epoch,
            "step": self.progress.step,
            "description": self._description,
        }

    def _save_step(self) -> None:
        """Write `checkpoint-<step>.pt`, from which training goes on exactly as it would have."""
        self._now()
        interval = self._interval.state(self._world, self._objective.components)
        if not self._world.is_main:
            return
        checkpoint.save_checkpoint(
            checkpoint.step_path(self._exp_dir, self.progress.step),
            {
                "objective": self._objective.state_dict(),
                **self._average.state(),
                "optimizer": self.updater.optimizer.state_dict(),
                "scaler": self.updater.scaler.state_dict(),
                "grad_norms": self.updater.clip.state,
                "progress": asdict(self.progress),
                "interval": interval,
                "description": self._description,
            },
        )
        checkpoint.keep_last(
            self._exp_dir,
            checkpoints=self._config.keep_checkpoints,
            epochs_kept=self._config.keep_epochs,
        )

    def _restore(self) -> None:
        """Load the newest checkpoint, if there is one; the same on all processes."""
        self._load_newest()
        found = self._world.gather(asdict(self.progress))
        if any(progress != found[0] for progress in found):
            places = (f"rank {rank} at step {p['step']}" for rank, p in enumerate(found))
            raise UserError(
                "the processes do not go on from the same checkpoint: " + ", ".join(places),
                remedy=f"{self._exp_dir} must be shared by all machines: a folder on a disk that "
                "all of them see, with the checkpoints of the first",
                parameters=("exp_dir",),
            )

    def _load_newest(self) -> None:
        begin = time.monotonic()
        steps = checkpoint.steps(self._exp_dir)
        if not steps:
            logging.info("training begins at step 0")
            return
        path = checkpoint.step_path(self._exp_dir, steps[-1])
        state = checkpoint.load_checkpoint(path)
        try:
            self._load(state)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise UserError(
                f"{path} is no checkpoint of this training: {' '.join(str(error).split())[:200]}",
                remedy="move it away: training goes on from the one before, if there is one",
            ) from error
        logging.info(
            "going on from %s, read in %.2f s: epoch %d, step %d",
            path,
            time.monotonic() - begin,
            self.progress.epoch,
            self.progress.step,
        )

    def _load(self, state: dict[str, Any]) -> None:
        self._objective.load_state_dict(state["objective"])
        self._average.load(state)
        self.updater.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:  # empty unless the precision was float16
            self.updater.scaler.load_state_dict(state["scaler"])
        self.updater.clip = GradientClipper(self.updater.clip.ratio, state["grad_norms"])
        self.progress = Progress.restore(state["progress"])
        self._interval = LogInterval.restore(state["interval"], is_main=self._world.is_main)
