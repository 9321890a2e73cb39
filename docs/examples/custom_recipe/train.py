#!/usr/bin/env python3
"""A recipe of your own from `mvqkd`'s modules: a streaming student with a loss that is not in it.

    python docs/examples/custom_recipe/train.py --data-dir data/mini --exp-dir exp/self

The loss is self-distillation: in chunks, the student's last layer regresses what the same layer
gives with full context. No teacher is loaded and nothing is stored. `data-dir` is a folder that
stages 0 to 3 of `run.sh` have prepared.
"""

from __future__ import annotations

import argparse
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mvqkd.checkpoints.pretrained import write_pretrained
from mvqkd.data.folder import DataFolder
from mvqkd.data.loading.batch_loader import BatchLoader, eval_loader
from mvqkd.data.loading.epochs import TrainingPlan
from mvqkd.data.loading.limits import StepSize
from mvqkd.data.loading.pool import open_pool
from mvqkd.data.loading.tokenizer import Tokenizer
from mvqkd.distillation import LossContext
from mvqkd.losses import PrunedTransducerLoss
from mvqkd.models.build import build_model
from mvqkd.runtime.distributed import start_world
from mvqkd.runtime.interruption import catch_signals
from mvqkd.storage.files import atomic_path
from mvqkd.training.heads import CTCHeadLoss, TransducerHeadLoss
from mvqkd.training.objective import Objective
from mvqkd.training.optimizers import build_adamw
from mvqkd.training.schedule import cosine
from mvqkd.training.trainer import Trainer
from mvqkd.training.update import Updater

SIZES = {
    **{"dim": 96, "num_layers": 4, "num_heads": 4, "feedforward_dim": 384, "conv_kernel": 15},
    **{"dropout": 0.05, "predictor_dim": 96, "context_size": 2, "joiner_dim": 96},
    **{"causal": True, "chunk_size": [4], "left_context": 16},
}


class FullContextDistillation(nn.Module):
    """A `DistillationLoss`: squared error between the encoder's output in chunks and the output
    with full context, which gets no gradient.

    Args:
        weight: of the loss in the total.
    """

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.taps = ["output"]
        self.weight = weight
        self.final_weight_fraction = 1.0
        self.validates = True

    def forward(self, context: LossContext) -> Tensor:
        """(N,) losses, summed over frames."""
        student = context.taps["output"]
        teacher = context.full_context().taps["output"].detach()
        return (student - teacher).float().square().mean(2).sum(1)


@dataclass
class Loop:
    """How long training is, and what is written: `mvqkd.training.protocols.LoopSettings`."""

    num_epochs: int = 12
    average_period: int = 20
    log_interval: int = 50
    valid_interval: int = 0
    save_interval: int = 1000
    keep_checkpoints: int = 2
    keep_epochs: int = -1
    max_nonfinite: int = 50


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="prepared data")
    parser.add_argument("--exp-dir", type=Path, required=True, help="folder of the training")
    parser.add_argument("--num-epochs", type=int, default=12)
    parser.add_argument("--step-duration", type=float, default=20.0, help="seconds in a step")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    data = DataFolder(options.data_dir)
    splits, lang_dir = data.splits(), data.lang()
    tokenizer = Tokenizer.load(lang_dir)
    with atomic_path(options.exp_dir / "bpe.model") as partial:
        shutil.copyfile(lang_dir / "bpe.model", partial)

    step = StepSize(duration=options.step_duration, tokens=4000)
    pool = open_pool([data.cuts(name) for name in splits["train"]], lang_dir, step)
    train_steps = BatchLoader(pool.indexes, TrainingPlan(pool, step, num_buckets=4, seed=42))
    valid_batches = eval_loader(
        data.cuts(splits["dev"][0]), lang_dir, max_duration=options.step_duration
    )

    description = {
        "model": SIZES,
        "vocab_size": tokenizer.vocab_size,
        "heads": ["transducer", "ctc"],
    }
    torch.manual_seed(42)
    model = build_model(description)
    transducer = PrunedTransducerLoss(
        encoder_dim=96, predictor_dim=96, vocab_size=tokenizer.vocab_size
    )
    objective = Objective(
        model,
        {
            "transducer": TransducerHeadLoss(transducer, warmup_steps=300, detached_steps=200),
            "ctc": CTCHeadLoss(weight=0.3),
        },
        distillation={"full_context": FullContextDistillation(weight=0.1)},
        chunk_sizes=SIZES["chunk_size"],  # type: ignore[arg-type]
        left_context=16,
    )
    with start_world() as world, catch_signals() as interruption:
        objective.to(world.device)
        optimizer = build_adamw(objective, learning_rate=2e-3, betas=(0.9, 0.98), weight_decay=0.01)
        trainer = Trainer(
            Updater(objective, optimizer, world=world, seed=42, log_dir=options.exp_dir / "log"),
            Loop(num_epochs=options.num_epochs),
            exp_dir=options.exp_dir,
            train_steps=train_steps,
            valid_batches=valid_batches,
            learning_rate=lambda step, total: (
                2e-3 * cosine(step, warmup_steps=100, total_steps=total, final_fraction=0.02)
            ),
            description=description,
        )
        if trainer.run(interruption):
            write_pretrained(options.exp_dir, epoch=-1, avg=1, use_averaged_model=True)


if __name__ == "__main__":
    main()
