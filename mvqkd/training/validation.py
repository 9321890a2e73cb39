"""Losses on held-out speech, and a look at what the student makes of some of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager

import torch

from mvqkd.data.loading.batch import Batch
from mvqkd.runtime.distributed import World
from mvqkd.training.diagnostics import TranscribedSample, transcript_trouble
from mvqkd.training.objective import Objective
from mvqkd.training.sums import LossSums, per_frame

Transcribe = Callable[[Objective, Batch], list[str]]
"""Hypotheses for the utterances of a batch that is on the objective's device."""

_UTTERANCES_LOOKED_AT = 16


@torch.no_grad()
def validate(
    objective: Objective,
    batches: Iterable[Batch],
    *,
    world: World,
    autocast: Callable[[], AbstractContextManager[object]],
    transcribe: Transcribe | None = None,
) -> tuple[dict[str, float], list[TranscribedSample]]:
    """Validate on the batches of all processes.

    Every process must call it; their numbers of batches may differ, down to none.

    Args:
        objective: is left in training mode.
        batches: of this process.
        world: all processes.
        autocast: the precision.
        transcribe: applied to some utterances on the main process.

    Returns:
        Losses per encoder frame, and transcripts (of the main process; elsewhere none).
    """
    objective.eval()
    sums = LossSums()
    largest: Batch | None = None
    for batch in batches:
        with autocast():
            losses = objective(batch.to(world.device), chunk_size=objective.validation_chunk_size)
        if losses.total().isfinite():
            sums.add(losses)
        else:
            logging.warning("validation: no finite loss, skipped: %s", ", ".join(batch.ids))
        if largest is None or len(batch) > len(largest):
            largest = batch
    transcripts = []
    if transcribe is not None and world.is_main and largest is not None:
        some = largest.first(_UTTERANCES_LOOKED_AT).to(world.device)
        with autocast():
            hypotheses = transcribe(objective, some)
        transcripts = [
            TranscribedSample(*fields)
            for fields in zip(some.ids, some.texts, hypotheses, strict=True)
        ]
    objective.train()
    return per_frame(sums.over(world, objective.components)), transcripts


def log_transcripts(transcripts: Sequence[TranscribedSample]) -> None:
    """Show the first of them, and what is wrong with them all."""
    if transcripts:
        first = transcripts[0]
        logging.info("%s\n  ref: %s\n  hyp: %s", first.id, first.reference, first.hypothesis)
    for trouble in transcript_trouble(transcripts):
        logging.warning("%s", trouble)
