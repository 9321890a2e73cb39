"""The sections `optimizer` and `training` of an experiment, see `mvqkd.recipe.config.schema`.

Only the standard library is imported.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from mvqkd.recipe.config.ranges import (
    AboveZero,
    Count,
    NotNegative,
    Positive,
    PositiveOrAll,
    Range,
    Share,
)


@dataclass
class OptimizerConfig:
    """The optimizer and its schedule."""

    name: Literal["adamw", "scaled_adam", "muon"] = "adamw"
    """`adamw`; `scaled_adam`: that of the Zipformer, whose updates are relative to a parameter's
    size (arXiv 2310.11230); `muon`: orthogonal updates of the matrices of the encoder's layers,
    AdamW for all else."""
    learning_rate: AboveZero = 1e-3
    """Peak learning rate; of `scaled_adam` some 30 times that of the others."""
    betas: Annotated[list[float], Range(0, 1, open_high=True, length=2)] = field(
        default_factory=lambda: [0.9, 0.98]
    )
    """Decay rates of the moment estimates of `adamw` and `scaled_adam`."""
    muon_interval: Positive = 1
    """Steps from one update of a matrix by `muon` to its next, which is as many times as large:
    orthogonalization costs as many times less."""
    weight_decay: NotNegative = 0.01
    """Decoupled weight decay of matrices; biases, norms and scales have none, nor has
    `scaled_adam`."""
    schedule: Literal["cosine", "noam", "eden"] = "cosine"
    """After the linear warm-up: `cosine` falls to final_fraction at the last step, `noam` with the
    inverse square root, `eden` with steps and with epochs (arXiv 2310.11230)."""
    warmup_steps: Count = 500
    """Steps of linear warm-up."""
    final_fraction: Share = 0.02
    """Learning rate at the end of the cosine schedule, as a fraction of the peak."""
    eden_steps: AboveZero = 7500.0
    """Steps at which `eden`'s factor of steps is 0.84."""
    eden_epochs: AboveZero = 3.5
    """Epochs at which `eden`'s factor of epochs is 0.84."""
    clip_grad_ratio: NotNegative = 4.0
    """The gradient's norm is limited to this multiple of the median norm of the last 100 steps; 0:
    no clipping."""


@dataclass
class TrainingConfig:
    """Duration, precision, logs and checkpoints."""

    num_epochs: Positive = 30
    """Passes over the training cuts. If it is raised later, training continues at the learning rate
    of the longer schedule."""
    seed: Annotated[int, Range(0, 2**32 - 1)] = 42
    """Random seed of initialization, data order, augmentation and dropout."""
    init: str = ""
    """Initial weights: a file of a training, the folder of an experiment or a model, or
    `hf:OWNER/NAME`. What fits is taken over, the rest begins at random. Empty: all at random."""
    init_other_features: bool = False
    """Take over weights of a model of features of another kind than the data's too; the layers that
    receive them begin at random."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the forward pass; losses are always computed in float32."""
    average_period: Positive = 100
    """Steps between updates of the running average of the weights."""
    log_interval: Positive = 50
    """Steps between log lines."""
    valid_interval: Count = 0
    """Steps between validations; 0: at the end of every epoch."""
    save_interval: Positive = 1000
    """Steps between `checkpoint-<step>.pt` files, from which interrupted training resumes."""
    keep_checkpoints: PositiveOrAll = 2
    """Number of `checkpoint-<step>.pt` files kept; -1: all."""
    keep_epochs: PositiveOrAll = -1
    """Number of `epoch-N.pt` files kept; -1: all."""
    max_nonfinite: Count = 50
    """Number of batches with a non-finite loss or gradient after which training stops."""
