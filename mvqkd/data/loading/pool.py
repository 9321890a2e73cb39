"""The utterances that a training draws its batches from."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mvqkd.data.loading.excluded import read_excluded
from mvqkd.data.loading.index import CutIndex, open_index
from mvqkd.data.loading.labelled import choose_labelled, unlabelled_pool
from mvqkd.data.loading.limits import (
    BatchLimits,
    StepSize,
    TargetSizes,
    check_fits_batch,
    fits_step,
)
from mvqkd.errors import UserError


@dataclass(frozen=True)
class TrainingPool:
    """Utterances of several manifests, numbered through them."""

    indexes: list[CutIndex]
    """Of the manifests."""
    seconds: NDArray[np.float64]
    """(N,) of all utterances."""
    num_tokens: NDArray[np.int64]
    """(N,) of the transcripts of all utterances."""
    targets: TargetSizes
    """Of all utterances."""
    labelled: NDArray[np.int64]
    """Numbers of those that are trained on with their transcripts."""
    unlabelled: NDArray[np.int64]
    """Numbers of those that are trained on as audio alone."""
    replayed: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """Numbers of those of old data, see `with_replay`."""

    def transcript(self, number: int) -> NDArray[np.int32]:
        """(U,) tokens of an utterance."""
        for index in self.indexes:
            if number < len(index):
                return index.tokens(number)
            number -= len(index)
        raise IndexError(number)


def open_pool(
    cuts: Sequence[str | Path],
    lang_dir: str | Path,
    step: StepSize,
    limits: BatchLimits | None = None,
    *,
    ctc: bool = False,
    labelled_hours: float = 0.0,
    unlabelled: bool = False,
    unlabelled_cuts: Sequence[str | Path] = (),
) -> TrainingPool:
    """Choose the utterances of a training.

    Labelled are all of `cuts`, or `labelled_hours` of them (see `choose_labelled`), that are not
    excluded.
    Unlabelled are the other utterances of `cuts` and all of `unlabelled_cuts`. Lists of excluded
    cuts concern transcripts alone: unlabelled cuts need none, and excluded training cuts are
    unlabelled audio like others. Utterances larger than a step are skipped.

    Args:
        cuts: manifests of cuts (`fbank/*_cuts_*.jsonl.gz`).
        lang_dir: folder of `bpe.model` and of the lists of excluded cuts.
        step: what a step holds.
        limits: of a batch of one process; None: it holds whatever a step does.
        ctc: whether there is a CTC loss, see `read_excluded`.
        labelled_hours: audio that keeps its transcripts, speed-perturbed copies not counted; 0 is
            all.
        unlabelled: whether audio without transcripts is trained on.
        unlabelled_cuts: manifests of more audio, transcripts or not; read if it is.

    Raises:
        UserError: a file is missing or damaged, much of the audio is in utterances larger than a
            step, one exceeds the limits of a batch, there are fewer than `labelled_hours`, or there
            is no unlabelled audio.
    """
    paths, more = list(cuts), list(unlabelled_cuts) if unlabelled else []
    if not 0 <= labelled_hours < float("inf"):
        raise UserError(
            f"labelled_hours is {labelled_hours}",
            remedy="0 or more",
            parameters=("labelled_hours",),
        )
    # Excluded cuts alone would be a handful of utterances over and over.
    if unlabelled and not more and labelled_hours == 0:
        raise _no_unlabelled()
    _check_names(paths, more)
    indexes = [open_index(path, lang_dir) for path in [*paths, *more]]
    excluded = [read_excluded(lang_dir, path, ctc=ctc) for path in paths]
    kept = kept_numbers(indexes[: len(paths)], excluded)
    seconds = np.concatenate([index.seconds for index in indexes])
    num_tokens = np.concatenate([index.num_tokens for index in indexes])
    ids = np.concatenate([index.ids for index in indexes])
    if labelled_hours > 0:
        # Of all cuts: the tokens are made of the transcripts of this choice, and which cuts are
        # excluded depends on the tokens.
        count = sum(map(len, indexes[: len(paths)]))
        kept = kept[choose_labelled(ids[:count], seconds[:count], labelled_hours)[kept]]
    short = fits_step(seconds, step.duration, "duration", seconds=seconds, ids=ids)
    kept = kept[short[kept]]
    kept = kept[
        fits_step(num_tokens[kept], step.tokens, "tokens", seconds=seconds[kept], ids=ids[kept])
    ]
    rest = np.zeros(0, dtype=np.int64)
    if unlabelled:
        num_frames = np.concatenate([index.num_frames for index in indexes])
        rest = unlabelled_pool(ids, num_frames, kept)
        rest = rest[short[rest]]
        if not len(rest):
            raise _no_unlabelled()
        logging.info("unlabelled: %d utterances, %.4g hours", len(rest), seconds[rest].sum() / 3600)
    if limits is not None:
        used = np.concatenate([kept, rest])
        check_fits_batch(seconds[used], limits.duration, "duration", ids=ids[used])
        check_fits_batch(num_tokens[kept], limits.tokens, "tokens", ids=ids[kept])
    counts = np.zeros(len(seconds), dtype=np.int64)
    counts[kept] = 1
    targets = TargetSizes(counts, num_tokens)
    return TrainingPool(indexes, seconds, num_tokens, targets, labelled=kept, unlabelled=rest)


def kept_numbers(indexes: Sequence[CutIndex], excluded: Sequence[set[str]]) -> NDArray[np.int64]:
    """Numbers, through all indexes, of the cuts that are not excluded."""
    starts = np.cumsum([0, *(len(index) for index in indexes)])[:-1]
    return np.concatenate(
        [
            index.without(ids) + start
            for index, ids, start in zip(indexes, excluded, starts, strict=True)
        ]
    )


def _check_names(cuts: Sequence[str | Path], unlabelled_cuts: Sequence[str | Path]) -> None:
    """Refuse two manifests of one name: their indexes have one place in `lang_dir`."""
    known = {Path(path).name: Path(path).resolve() for path in cuts}
    for path in map(Path, unlabelled_cuts):
        other = known.setdefault(path.name, path.resolve())
        if other != path.resolve():
            raise UserError(
                f"{path} and {other} have the same name", remedy="rename one of the two manifests"
            )


def _no_unlabelled() -> UserError:
    return UserError(
        "there is no unlabelled audio: all utterances of the training cuts are labelled, and no "
        "others are given",
        remedy="take fewer labelled hours than there are, add unlabelled audio, or train without",
        parameters=("labelled_hours", "unlabelled_cuts", "unlabelled_ratio"),
    )
