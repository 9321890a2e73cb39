"""The utterances of a training that have a teacher's texts."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from mvqkd.data.loading.pool import TrainingPool
from mvqkd.data.loading.teacher_text import TeacherText
from mvqkd.errors import UserError
from mvqkd.geometry import encoder_frames


def with_teacher_text(pool: TrainingPool, text: TeacherText, *, keep_all: bool) -> TrainingPool:
    """A pool whose utterances without transcripts have the tokens of the teacher's texts.

    Args:
        pool: of a training.
        text: what a teacher wrote of its utterances.
        keep_all: whether utterances without any text stay, for losses that need none; otherwise
            they are left out.

    Raises:
        UserError: the teacher was not asked about an utterance, or there is no text at all.
    """
    ids = np.concatenate([index.ids for index in pool.indexes])
    lengths = np.concatenate([index.num_frames for index in pool.indexes])
    num_tokens = pool.num_tokens.copy()
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
        used, left_out = text.survey(names, frames, labelled=labelled)
        logging.info(
            "%s: %d of %d utterances have hypotheses that are used%s",
            kind,
            used.sum(),
            len(names),
            "".join(f"; left out, {reason}: {count}" for reason, count in sorted(left_out.items())),
        )
        if not labelled:
            num_tokens[numbers] = [text.longest(name) for name in names]
        chosen[kind] = numbers if keep_all else numbers[used]
    if not len(chosen["labelled"]) or (len(pool.unlabelled) and not len(chosen["unlabelled"])):
        raise UserError(
            "no utterance is left that has hypotheses",
            remedy="less strict limits of word errors, confidence, or of what is taken for a "
            "repetition or an invention",
        )
    return replace(
        pool,
        num_tokens=num_tokens,
        labelled=chosen["labelled"],
        unlabelled=chosen["unlabelled"],
    )
