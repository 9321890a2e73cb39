"""A linear CTC probe on frozen features: how much of the transcript is linearly decodable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from mvqkd.evaluation.wer import ErrorCounts, Transcript, score
from mvqkd.teachers.interface import CTCTranscriber


@dataclass
class ProbeResult:
    """What a probe recognized of utterances that it was not trained on."""

    characters: ErrorCounts
    """Errors in characters; the space between words is one."""
    loss: float
    """CTC loss of these utterances except those that are too short, in nats per character."""
    too_short: int
    """Utterances with more characters than their frames have room for."""


def probe(
    train: Sequence[tuple[Tensor, str]],
    test: Sequence[tuple[Tensor, str]],
    *,
    steps: int = 400,
    batch_size: int = 16,
    learning_rate: float = 1e-2,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> ProbeResult:
    """Train one linear layer from normalized frames to characters with CTC, and decode with it.

    Args:
        train: (T, D) features of any floating-point type, and transcript, of each utterance.
        test: others, of other speakers if possible.
        steps: of Adam, each on `batch_size` utterances; the rate falls to zero linearly.

    Raises:
        ValueError: no utterance to train or to test on.
    """
    if not train or not test:
        raise ValueError("the probe needs utterances to train and to test on")
    symbols = sorted({symbol for _, text in train for symbol in text.replace(" ", "|")})
    indexes = {symbol: index for index, symbol in enumerate(symbols, start=1)}

    def encode(text: str) -> Tensor:
        known = [indexes[symbol] for symbol in text.replace(" ", "|") if symbol in indexes]
        return torch.tensor(known, dtype=torch.long)

    frames = torch.cat([features.float() for features, _ in train])
    mean, scale = frames.mean(0).to(device), frames.std(0).clamp(min=1e-5).to(device)
    del frames
    generator = torch.Generator().manual_seed(seed)
    linear = nn.Linear(len(mean), 1 + len(symbols))
    with torch.no_grad():  # of the generator alone, whatever ran before
        linear.weight.copy_(torch.randn(linear.weight.shape, generator=generator) * 0.01)
        linear.bias.zero_()
    linear.to(device)
    optimizer = torch.optim.Adam(linear.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    criterion = nn.CTCLoss(blank=0, reduction="none", zero_infinity=True)

    def loss_of(batch: Sequence[tuple[Tensor, str]]) -> tuple[Tensor, Tensor, Tensor, int]:
        lens = torch.tensor([len(features) for features, _ in batch])
        x = pad_sequence([features.float() for features, _ in batch], batch_first=True).to(device)
        logits = linear((x - mean) / scale)
        targets = [encode(text) for _, text in batch]
        losses = criterion(
            logits.log_softmax(-1).transpose(0, 1),
            torch.cat(targets).to(device),
            lens,
            torch.tensor([len(target) for target in targets]),
        )
        # Of an utterance with too few frames the loss is infinite, here zero: it has no characters.
        possible = (losses > 0).tolist()
        count = sum(len(target) for target, fits in zip(targets, possible, strict=True) if fits)
        return losses, logits, lens, count

    order: list[int] = []
    for _ in range(steps):
        if len(order) < min(batch_size, len(train)):
            order += torch.randperm(len(train), generator=generator).tolist()
        chosen, order = order[:batch_size], order[batch_size:]
        losses, _, _, count = loss_of([train[index] for index in chosen])
        optimizer.zero_grad()
        (losses.sum() / max(1, count)).backward()
        optimizer.step()
        schedule.step()

    head = CTCTranscriber(nn.Identity(), ["", *symbols], blank=0)
    transcripts: list[Transcript] = []
    total_loss, total_count, too_short = 0.0, 0, 0
    with torch.no_grad():
        for begin in range(0, len(test), batch_size):
            batch = test[begin : begin + batch_size]
            losses, logits, lens, count = loss_of(batch)
            total_loss, total_count = total_loss + float(losses.sum()), total_count + count
            too_short += sum(
                loss == 0 and bool(text) for loss, (_, text) in zip(losses, batch, strict=True)
            )
            for (_, text), hypothesis in zip(batch, head.decode(logits, lens), strict=True):
                name = str(len(transcripts))
                transcripts.append(Transcript(name, list(text), list(hypothesis)))
    return ProbeResult(score(transcripts).total, total_loss / max(1, total_count), too_short)
