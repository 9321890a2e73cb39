"""A student of a few thousand parameters, made-up batches, and trainers of them."""

from __future__ import annotations

import dataclasses
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from mvqkd.data.loading.batch import Batch, collate
from mvqkd.losses import PrunedTransducerLoss
from mvqkd.models import (
    AsrModel,
    ConformerEncoder,
    CTCHead,
    Joiner,
    StatelessPredictor,
    TransducerHead,
)
from mvqkd.recipe.config.schema import TrainingConfig
from mvqkd.runtime.distributed import World, start_world
from mvqkd.training.heads import CTCHeadLoss, TransducerHeadLoss
from mvqkd.training.objective import Objective
from mvqkd.training.optimizers import build_adamw
from mvqkd.training.trainer import Trainer
from mvqkd.training.update import Updater

VOCAB = 6
BINS = 16


def make_objective(*, seed: int = 0, dropout: float = 0.0, ctc_scale: float = 0.2, **options):
    """An `Objective` with random weights; `options` are its own, `causal` the encoder's."""
    torch.manual_seed(seed)
    encoder = ConformerEncoder(
        input_dim=BINS,
        dim=16,
        num_layers=2,
        num_heads=2,
        feedforward_dim=32,
        conv_kernel=3,
        dropout=dropout,
        causal=options.pop("causal", False),
        subsampling_channels=4,
    )
    transducer = TransducerHead(
        StatelessPredictor(vocab_size=VOCAB, dim=16, context_size=2),
        Joiner(encoder_dim=16, predictor_dim=16, joiner_dim=16, vocab_size=VOCAB),
    )
    ctc = CTCHead(encoder_dim=16, vocab_size=VOCAB) if ctc_scale else None
    loss = PrunedTransducerLoss(
        encoder_dim=16, predictor_dim=16, vocab_size=VOCAB, prune_range=3, backend="builtin"
    )
    warmups = {
        name: options.pop(name)
        for name in ("simple_scale", "detached_steps", "delay_penalty")
        if name in options
    }
    head_losses: dict[str, nn.Module] = {
        "transducer": TransducerHeadLoss(loss, warmup_steps=4, **warmups)
    }
    if ctc is not None:
        head_losses["ctc"] = CTCHeadLoss(weight=ctc_scale)
    return Objective(AsrModel(encoder, transducer=transducer, ctc=ctc), head_losses, **options)


def make_batch(*names: str, frames: int = 40, tokens: int = 3, labelled: bool = True) -> Batch:
    """Noise with a transcript for each name; the same names give the same batch."""
    ids, features, targets = [], [], []
    for name in names:
        random = torch.Generator().manual_seed(sum(map(ord, name)))
        length = frames + int(torch.randint(0, 8, (), generator=random))
        features.append(torch.randn(length, BINS, generator=random).numpy())
        targets.append(torch.randint(3, VOCAB, (tokens,), generator=random).numpy())
        ids.append(name)
    texts = [" ".join(map(str, target)) if labelled else "" for target in targets]
    return collate(ids, features, texts, targets if labelled else None)


class TapLoss(nn.Module):
    """A distillation loss as they come: a head of its own on a tap of the encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.taps = ["layers.1"]
        self.weight = 2.0
        self.final_weight_fraction = 1.0
        self.validates = True
        self.head = nn.Linear(16, 1)
        with torch.no_grad():  # the same wherever it is made
            self.head.weight.copy_(torch.linspace(-0.2, 0.3, 16)[None])
            self.head.bias.zero_()
        self.seen = None

    def forward(self, context):
        self.seen = context
        out = self.head(context.taps["layers.1"]).squeeze(-1).square()
        valid = torch.arange(out.shape[1]) < context.lens[:, None]
        return (out * valid).sum(1)


class FixedSteps:
    """`Steps` of a given list, in an order that depends on the epoch; a batch is a step."""

    def __init__(self, steps: Sequence[Batch | list[Batch]]) -> None:
        self.steps = [step if isinstance(step, list) else [step] for step in steps]
        self.order: list[int] = []

    def set_epoch(self, epoch: int, first: int = 0) -> None:
        random = torch.Generator().manual_seed(epoch)
        self.order = torch.randperm(len(self.steps), generator=random).tolist()[first:]

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[list[Batch]]:
        for i in list(self.order):
            yield self.steps[i]


def some_batches(count: int = 3) -> list[Batch]:
    return [make_batch(f"u{i}a", f"u{i}b", frames=30 + 4 * i) for i in range(count)]


def make_updater(objective: Objective, log_dir: Path, **options) -> Updater:
    """With AdamW, alone in the world, unless `options` of `Updater` say otherwise."""
    options.setdefault("optimizer", build_adamw(objective, learning_rate=0.01))
    options.setdefault("world", World())
    return Updater(objective, seed=1, log_dir=log_dir, **options)


def make_trainer(
    exp_dir: Path,
    *,
    world: World | None = None,
    train: FixedSteps | None = None,
    valid: list[Batch] | None = None,
    objective: Objective | None = None,
    learning_rate: Callable[[int, int], float] | None = None,
    transcribe=None,
    updater_options: dict | None = None,
    **config,
) -> Trainer:
    """A trainer with dropout; `config` overrides fields of `TrainingConfig`."""
    objective = objective or make_objective(dropout=0.2)
    settings = TrainingConfig(num_epochs=2, log_interval=2, save_interval=2, average_period=2)
    return Trainer(
        make_updater(objective, exp_dir / "log", world=world or World(), **(updater_options or {})),
        dataclasses.replace(settings, **config),
        exp_dir=exp_dir,
        train_steps=FixedSteps(some_batches()) if train is None else train,
        valid_batches=[make_batch("v1", "v2")] if valid is None else valid,
        learning_rate=learning_rate or (lambda step, total: 0.01),
        description={"made": "by a test"},
        transcribe=transcribe,
    )


def weights(objective: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in objective.state_dict().items()}


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    """Bit for bit."""
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


def free_port() -> int:
    """A port that processes can meet at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def one_of_two(rank: int, port: int):
    """The world of one of two processes, which meet at a port."""
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OMP_NUM_THREADS="1",
    )  # fmt: skip
    return start_world("cpu")
