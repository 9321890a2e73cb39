"""Old data in a training on new data, so that a student keeps what it learned from them: replay
(Robins 1995, Catastrophic forgetting, rehearsal and pseudorehearsal)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mvqkd.data.loading.excluded import read_excluded
from mvqkd.data.loading.index import open_index
from mvqkd.data.loading.limits import (
    BatchLimits,
    StepSize,
    TargetSizes,
    check_fits_batch,
    fits_step,
)
from mvqkd.data.loading.pool import TrainingPool, kept_numbers
from mvqkd.errors import UserError


def with_replay(
    pool: TrainingPool,
    cuts: Sequence[tuple[Path, Path]],
    step: StepSize,
    limits: BatchLimits,
    *,
    ctc: bool = False,
) -> TrainingPool:
    """A pool with utterances to replay, all that are not excluded and that a step can hold.

    Args:
        pool: of the new data.
        cuts: manifests of old data, each with the folder of `bpe.model` and of its list of excluded
            cuts.
        step: what a step holds of the new data.
        limits: of a batch of one process.
        ctc: whether there is a CTC loss, see `read_excluded`.

    Raises:
        UserError: a file is missing or damaged, much of the audio is in utterances larger than a
            step, one exceeds the limits of a batch, or none is left.
    """
    indexes = [open_index(path, folder) for path, folder in cuts]
    excluded = [read_excluded(folder, path, ctc=ctc) for path, folder in cuts]
    seconds = np.concatenate([index.seconds for index in indexes])
    num_tokens = np.concatenate([index.num_tokens for index in indexes])
    ids = np.concatenate([index.ids for index in indexes])
    kept = kept_numbers(indexes, excluded)
    if not len(kept):
        names = ", ".join(str(path) for path, _ in cuts)
        raise UserError(
            f"no utterance of {names} is left to replay: all are excluded, since the tokens cannot "
            "spell them or they have too few frames for them",
            remedy="begin with the tokens of the old data, or train without replay",
            parameters=("replay",),
        )
    for amounts, limit, unit in (
        (seconds, step.duration, "duration"),
        (num_tokens, step.tokens, "tokens"),
    ):
        kept = kept[fits_step(amounts[kept], limit, unit, seconds=seconds[kept], ids=ids[kept])]
    check_fits_batch(seconds[kept], limits.duration, "duration", ids=ids[kept])
    check_fits_batch(num_tokens[kept], limits.tokens, "tokens", ids=ids[kept])
    return replace(
        pool,
        indexes=[*pool.indexes, *indexes],
        seconds=np.concatenate([pool.seconds, seconds]),
        num_tokens=np.concatenate([pool.num_tokens, num_tokens]),
        targets=TargetSizes(
            np.concatenate([pool.targets.counts, np.ones_like(num_tokens)]),
            np.concatenate([pool.targets.longest, num_tokens]),
        ),
        replayed=kept + len(pool.seconds),
    )
