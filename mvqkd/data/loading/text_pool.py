"""The utterances of a training that have a teacher's texts."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from mvqkd.data.loading.limits import BatchLimits, TargetSizes, check_fits_batch
from mvqkd.data.loading.pool import TrainingPool
from mvqkd.data.loading.teacher_text import TeacherText
from mvqkd.errors import UserError
from mvqkd.geometry import encoder_frames


def with_teacher_text(
    pool: TrainingPool, text: TeacherText, limits: BatchLimits | None = None, *, keep_all: bool
) -> TrainingPool:
    """A pool whose utterances are trained on a teacher's texts.

    Args:
        pool: of a training. Its steps hold the same utterances with and without hypotheses.
        text: what a teacher wrote of its utterances.
        limits: of a batch of one process; None: there are none.
        keep_all: whether utterances without any text stay, for losses that need none; otherwise
            they are left out.

    Raises:
        UserError: the teacher was not asked about an utterance, there is no text at all, or the
            hypotheses of an utterance exceed the limits of a batch.
    """
    ids = np.concatenate([index.ids for index in pool.indexes])
    lengths = np.concatenate([index.num_frames for index in pool.indexes])
    sizes = TargetSizes(*(part.copy() for part in pool.targets))
    chosen = {}
    for kind, numbers in (("labelled", pool.labelled), ("unlabelled", pool.unlabelled)):
        labelled = kind == "labelled"
        if not len(numbers) or (labelled and text.choice.truth_share == 1):
            chosen[kind] = numbers
            continue
        names = [raw.decode() for raw in ids[numbers].tolist()]
        if absent := [name for name in names if name not in text]:
            raise UserError(
                f"there are no hypotheses of {len(absent)} of {len(names)} utterances of the "
                f"training, as {absent[0]}",
                remedy="those that are there are of other cuts: move them away",
                step="hypotheses",
            )
        frames = encoder_frames(lengths[numbers]).tolist()
        truths = map(pool.transcript, numbers.tolist()) if labelled else None
        found, left_out = text.survey(names, frames, truths)
        used = found.counts > 0
        logging.info(
            "%s: %d of %d utterances have hypotheses that are used%s",
            kind,
            used.sum(),
            len(names),
            "".join(f"; left out, {reason}: {count}" for reason, count in sorted(left_out.items())),
        )
        sizes.counts[numbers], sizes.longest[numbers] = found
        chosen[kind] = numbers if keep_all else numbers[used]
    if not len(chosen["labelled"]) or (len(pool.unlabelled) and not len(chosen["unlabelled"])):
        raise UserError(
            "no utterance is left that has hypotheses",
            remedy="less strict limits of word errors, confidence, or of what is taken for a "
            "repetition or an invention",
        )
    if limits is not None:
        numbers = np.concatenate(list(chosen.values()))
        amounts = sizes.counts[numbers] * sizes.longest[numbers]
        check_fits_batch(amounts, limits.tokens, "tokens", ids=ids[numbers])
    return replace(
        pool, targets=sizes, labelled=chosen["labelled"], unlabelled=chosen["unlabelled"]
    )
