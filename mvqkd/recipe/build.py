"""From the fields of an experiment to models, losses, optimizers and batches.

The only place where a configuration meets a constructor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mvqkd.data.loading.batch import Batch
from mvqkd.data.loading.batch_loader import BatchLoader, eval_loader
from mvqkd.data.loading.epochs import TrainingPlan
from mvqkd.data.loading.limits import BatchLimits, StepSize
from mvqkd.data.loading.noise import NoiseMixer
from mvqkd.data.loading.pool import open_pool
from mvqkd.data.loading.replay import with_replay
from mvqkd.data.loading.teacher_text import TeacherText
from mvqkd.data.loading.text_pool import with_teacher_text
from mvqkd.data.loading.tokenizer import Tokenizer
from mvqkd.data.targets.frame_targets import TargetSource
from mvqkd.decoding import build_search, default_method
from mvqkd.errors import UserError
from mvqkd.features.spec_augment import SpecAugment
from mvqkd.geometry import NUM_BINS
from mvqkd.losses import PrunedTransducerLoss
from mvqkd.losses.lattice import choose_backend
from mvqkd.models import AsrModel
from mvqkd.models.build import build_model
from mvqkd.recipe.config.schema import (
    DataConfig,
    ExperimentConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
)
from mvqkd.recipe.distillation import OpenedLoss
from mvqkd.recipe.remedies import run_command
from mvqkd.runtime.distributed import World
from mvqkd.training import schedule
from mvqkd.training.heads import AttentionHeadLoss, CTCHeadLoss, TransducerHeadLoss
from mvqkd.training.objective import Objective
from mvqkd.training.optimizers import ScaledAdam, build_adamw, build_muon
from mvqkd.training.update import Updater
from mvqkd.training.validation import Transcribe


def describe_model(
    config: ExperimentConfig, vocab_size: int, num_bins: int = NUM_BINS
) -> dict[str, object]:
    """What a file of weights says of its model, see `mvqkd.models.build.build_model`.

    Args:
        config: of the experiment.
        vocab_size: V, with the blank.
        num_bins: C, of the features of its data.
    """
    loss = config.loss
    scales = {
        "transducer": loss.transducer_scale,
        "ctc": loss.ctc_scale,
        "attention": loss.attention_scale,
    }
    heads = [name for name, scale in scales.items() if scale]
    model = asdict(config.model)
    if num_bins != NUM_BINS:
        model["input_dim"] = num_bins
    return {"model": model, "vocab_size": vocab_size, "heads": heads}


def build_student(config: ExperimentConfig, vocab_size: int, num_bins: int = NUM_BINS) -> AsrModel:
    """The student, with random weights; arguments as those of `describe_model`.

    Raises:
        UserError: sizes that do not go together.
    """
    try:
        return build_model(describe_model(config, vocab_size, num_bins))
    except ValueError as error:
        raise UserError(f"section model: {error}", remedy="see ./run.sh --help-config") from error


def build_transducer_loss(
    config: LossConfig, model: ModelConfig, vocab_size: int
) -> PrunedTransducerLoss:
    """The transducer loss of `build_student`'s student.

    Raises:
        UserError: k2 is wanted and missing.
    """
    try:
        choose_backend(config.backend, "cpu")
    except ValueError as error:
        raise UserError(
            f"loss.backend: {error}",
            remedy="--loss.backend auto, or install the k2 wheel of your torch and CUDA",
        ) from error
    return PrunedTransducerLoss(
        encoder_dim=model.dim,
        predictor_dim=model.predictor_dim,
        vocab_size=vocab_size,
        prune_range=config.prune_range,
        lm_scale=config.lm_scale,
        am_scale=config.am_scale,
        topology=config.topology,
        backend=config.backend,
    )


def build_objective(
    config: ExperimentConfig,
    vocab_size: int,
    losses: Mapping[str, OpenedLoss],
    num_bins: int = NUM_BINS,
) -> Objective:
    """Student and losses; initial weights depend on `training.seed` alone.

    Args:
        config: of the experiment.
        vocab_size: V, with the blank.
        losses: of distillation, by name.
        num_bins: C, of the features.
    """
    torch.manual_seed(config.training.seed)
    student = build_student(config, vocab_size, num_bins)
    loss = config.loss
    head_losses: dict[str, nn.Module] = {}
    if student.transducer is not None:
        head_losses["transducer"] = TransducerHeadLoss(
            build_transducer_loss(loss, config.model, vocab_size),
            weight=loss.transducer_scale,
            simple_scale=loss.simple_scale,
            warmup_steps=loss.warmup_steps,
            detached_steps=loss.ctc_warmup_steps,
            delay_penalty=loss.delay_penalty,
        )
    if student.ctc is not None:
        head_losses["ctc"] = CTCHeadLoss(
            weight=loss.ctc_scale, consistency_weight=loss.consistency_scale
        )
    if student.attention is not None:
        head_losses["attention"] = AttentionHeadLoss(
            weight=loss.attention_scale,
            smoothing=loss.label_smoothing,
            forcing=loss.teacher_forcing,
        )
    dual_mode = config.distillation.dual_mode
    return Objective(
        student,
        head_losses,
        # Last, so that the student's initial weights are those that it has without a teacher.
        distillation={name: loss.build(config.model.dim) for name, loss in losses.items()},
        chunk_sizes=config.model.chunk_size,
        left_context=config.model.left_context,
        distillation_steps=config.loss.distillation_steps,
        full_context_weight=dual_mode.full_context_weight if dual_mode.weight else 0.0,
    )


def build_optimizer(config: OptimizerConfig, objective: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of all parameters that learn.

    Raises:
        UserError: this torch does not have it.
    """
    first, second = config.betas
    if config.name == "scaled_adam":
        parameters = (p for p in objective.parameters() if p.requires_grad)
        return ScaledAdam(parameters, lr=config.learning_rate, betas=(first, second))
    shared: dict[str, Any] = {
        "learning_rate": config.learning_rate,
        "betas": (first, second),
        "weight_decay": config.weight_decay,
    }
    if config.name == "muon":
        return build_muon(objective, **shared, interval=config.muon_interval)
    return build_adamw(objective, **shared)


def build_schedule(config: OptimizerConfig, num_epochs: int) -> Callable[[int, int], float]:
    """(step, steps of the whole training) -> learning rate."""

    def learning_rate(step: int, total_steps: int) -> float:
        if config.schedule == "noam":
            factor = schedule.noam(step, warmup_steps=config.warmup_steps)
        elif config.schedule == "eden":
            factor = schedule.eden(
                step,
                epoch=num_epochs * step / total_steps,
                warmup_steps=config.warmup_steps,
                decay_steps=config.eden_steps,
                decay_epochs=config.eden_epochs,
            )
        else:
            factor = schedule.cosine(
                step,
                warmup_steps=config.warmup_steps,
                total_steps=total_steps,
                final_fraction=config.final_fraction,
            )
        return config.learning_rate * factor

    return learning_rate


def build_augmentation(config: DataConfig) -> SpecAugment | None:
    """SpecAugment, if wanted."""
    if not config.spec_augment:
        return None
    return SpecAugment(
        num_time_masks=config.num_time_masks,
        time_mask_size=config.time_mask_size,
        max_masked_fraction=config.max_masked_fraction,
        num_frequency_masks=config.num_frequency_masks,
        frequency_mask_size=config.frequency_mask_size,
    )


def build_updater(
    config: ExperimentConfig, objective: Objective, *, world: World, log_dir: Path
) -> Updater:
    """What takes the steps of a training; `objective` is on the device of `world`."""
    return Updater(
        objective,
        build_optimizer(config.optimizer, objective),
        world=world,
        seed=config.training.seed,
        precision=config.training.precision,
        clip_grad_ratio=config.optimizer.clip_grad_ratio,
        augment=build_augmentation(config.data),
        views=2 if config.loss.consistency_scale else 1,
        log_dir=log_dir,
    )


def build_train_steps(
    config: ExperimentConfig,
    cuts: Sequence[Path],
    lang_dir: Path,
    *,
    unlabelled_cuts: Sequence[Path] = (),
    replayed: Sequence[tuple[Path, Path]] = (),
    targets: Mapping[str, TargetSource],
    teacher_text: TeacherText | None = None,
    keep_clean: bool = False,
    musan: Path | None,
    rank: int,
    world_size: int,
) -> BatchLoader:
    """Steps of one training process; `replayed`: see `with_replay`; `targets`, `teacher_text` and
    `keep_clean`: see `BatchLoader`."""
    data, seed = config.data, config.training.seed
    step = StepSize(data.step_duration, data.step_tokens)
    limits = BatchLimits(data.batch_duration or math.inf, data.batch_tokens or math.inf)
    pool = open_pool(
        cuts,
        lang_dir,
        step,
        limits,
        ctc=config.loss.ctc_scale > 0,
        labelled_hours=data.labelled_hours,
        unlabelled=data.unlabelled_ratio > 0,
        unlabelled_cuts=unlabelled_cuts,
    )
    if teacher_text is not None:
        pool = with_teacher_text(
            pool, teacher_text, limits, keep_all=bool(config.distillation.losses)
        )
    if replayed:
        pool = with_replay(pool, replayed, step, limits, ctc=config.loss.ctc_scale > 0)
    plan = TrainingPlan(
        pool,
        step,
        limits=limits,
        num_buckets=data.num_buckets,
        seed=seed,
        unlabelled_ratio=data.unlabelled_ratio,
        replay_ratio=data.replay_ratio if replayed else 0.0,
        rank=rank,
        world_size=world_size,
    )
    steps = BatchLoader(
        pool.indexes,
        plan,
        noise=build_noise(data, musan, seed),
        keep_clean=keep_clean,
        teacher_text=teacher_text,
        targets=targets,
        pad_multiple=data.pad_multiple,
        num_workers=data.num_workers,
    )
    steps.set_epoch(1)
    return steps


def build_noise(config: DataConfig, musan: Path | None, seed: int) -> NoiseMixer | None:
    """Mixing of noise, if wanted.

    Args:
        config: section `data`.
        musan: manifest of noises with features.
        seed: of the choice of utterances and noises.

    Raises:
        UserError: there are no noises.
    """
    if config.musan_probability == 0:
        return None
    if musan is None or not musan.is_file():
        raise UserError(
            f"data.musan_probability is {config.musan_probability:g}, but there are no MUSAN "
            f"features ({musan})",
            remedy=f"{run_command('--musan yes --stop-stage 2')} makes them, or "
            "--data.musan_probability 0",
        )
    low, high = config.musan_snr
    return NoiseMixer(musan, probability=config.musan_probability, snr=(low, high), seed=seed)


class ValidBatches:
    """Batches of one process of several splits of the corpus, the same in every iteration."""

    def __init__(
        self,
        config: DataConfig,
        cuts: Sequence[Path],
        lang_dir: Path,
        *,
        ctc: bool,
        targets: Mapping[str, TargetSource],
        rank: int,
        world_size: int,
    ) -> None:
        self._loaders = [
            eval_loader(
                path,
                lang_dir,
                max_duration=config.batch_duration or config.step_duration,
                ctc=ctc,
                rank=rank,
                world_size=world_size,
                num_workers=min(1, config.num_workers),
                targets=targets,
                pad_multiple=config.pad_multiple,
            )
            for path in cuts
        ]

    def __len__(self) -> int:
        return sum(len(loader) for loader in self._loaders)

    def __iter__(self) -> Iterator[Batch]:
        for loader in self._loaders:
            yield from loader


def build_transcriber(tokenizer: Tokenizer) -> Transcribe:
    """Greedy search, for a look at a student during training."""

    def transcribe(objective: Objective, batch: Batch) -> list[str]:
        streaming = objective.streaming(objective.validation_chunk_size)
        encoder_out, lens = objective.model.encoder(
            batch.features,
            batch.feature_lens,
            chunk_size=streaming.chunk_size,
            left_context=streaming.left_context,
        )
        model = objective.model
        search = build_search(model, default_method(model, greedy=True))
        state = search.advance(search.start(len(lens)), encoder_out, lens)
        return [tokenizer.decode(found[0].tokens) for found in search.hypotheses(state)]

    return transcribe
