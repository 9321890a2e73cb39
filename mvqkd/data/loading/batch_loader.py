"""Batches made by worker processes ahead of time."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from mvqkd.data.loading.batch import Batch, collate
from mvqkd.data.loading.epochs import Plan, PlannedBatch
from mvqkd.data.loading.excluded import read_excluded
from mvqkd.data.loading.hypotheses import WeightedTokens
from mvqkd.data.loading.index import CutIndex, open_index, transcript
from mvqkd.data.loading.noise import NoiseMixer
from mvqkd.data.loading.plan import plan_evaluation
from mvqkd.data.loading.teacher_text import TeacherText
from mvqkd.data.targets.frame_targets import TargetSource
from mvqkd.errors import UserError
from mvqkd.features.reading import load_features
from mvqkd.geometry import encoder_frames
from mvqkd.runtime.loading import items_of, shared
from mvqkd.runtime.workers import end_with_parent, leave_signals_to_parent

_Request = tuple[int, list[PlannedBatch]]  # epoch, batches of a step


class _Utterances(Dataset[list[Batch] | UserError]):
    """What worker processes hold: the indexes (mapped files) and how to make a batch of them."""

    def __init__(
        self,
        indexes: Sequence[CutIndex],
        *,
        noise: NoiseMixer | None,
        keep_clean: bool,
        with_tokens: bool,
        teacher_text: TeacherText | None,
        targets: Mapping[str, TargetSource],
        pad_multiple: int,
    ) -> None:
        self._indexes = indexes
        self._starts = np.cumsum([0, *(len(index) for index in indexes)])
        self._noise = noise
        self._keep_clean = keep_clean and noise is not None
        self._with_tokens = with_tokens
        self._teacher_text = teacher_text
        self._targets = dict(targets)
        self._pad_multiple = pad_multiple

    def __getitem__(self, request: _Request) -> list[Batch] | UserError:
        epoch, step = request
        try:
            return shared([self._batch(planned, epoch) for planned in step])
        except UserError as error:
            return error

    def _batch(self, planned: PlannedBatch, epoch: int) -> Batch:
        cuts = [self._utterance(int(number)) for number in planned.numbers]
        ids, clean, texts, tokens = zip(*cuts, strict=True)
        features = clean
        if self._noise is not None:
            pairs = zip(ids, clean, strict=True)
            features = tuple(self._noise(x, utterance, epoch) for utterance, x in pairs)
        batch = collate(
            ids,
            features,
            texts if planned.labelled else [""] * len(ids),
            tokens if planned.labelled and self._with_tokens else None,
            hypotheses=self._hypotheses(planned.labelled, ids, clean, tokens),
            clean=clean if self._keep_clean else None,
            pad_multiple=self._pad_multiple,
        )
        batch.noisy = self._noise is not None
        lens = encoder_frames(batch.feature_lens).tolist()
        for name, source in self._targets.items():
            batch.targets[name] = source(batch.ids, lens)
        return batch

    def _hypotheses(
        self,
        labelled: bool,
        ids: Sequence[str],
        features: Sequence[NDArray[np.float32]],
        tokens: Sequence[NDArray[np.int32]],
    ) -> list[list[WeightedTokens]] | None:
        """A teacher's texts of utterances, and their transcripts in what share is wanted."""
        if self._teacher_text is None:
            return None
        return [
            self._teacher_text(name, truth if labelled else None, encoder_frames(len(x)))
            for name, x, truth in zip(ids, features, tokens, strict=True)
        ]

    def _utterance(self, number: int) -> tuple[str, NDArray[np.float32], str, NDArray[np.int32]]:
        source = int(np.searchsorted(self._starts, number, side="right")) - 1
        index, i = self._indexes[source], number - int(self._starts[source])
        cut = index.cut(i)
        features = load_features(cut, index.source)
        return cut["id"], features, transcript(cut), index.tokens(i)


def _begin_worker(worker: int) -> None:
    leave_signals_to_parent()
    end_with_parent()


class BatchLoader:
    """Iterates over the steps of an epoch: lists of one process's batches, made by worker processes
    ahead of time.

    The batches and their order do not depend on the number of workers. Workers live as long as
    this object; `set_epoch` leads them to another epoch.
    """

    def __init__(
        self,
        indexes: Sequence[CutIndex],
        plan: Plan,
        *,
        noise: NoiseMixer | None = None,
        keep_clean: bool = False,
        with_tokens: bool = True,
        teacher_text: TeacherText | None = None,
        targets: Mapping[str, TargetSource] | None = None,
        pad_multiple: int = 1,
        num_workers: int = 0,
        start_method: str | None = None,
    ) -> None:
        """Args:
        indexes: of the manifests; utterances are numbered through them in this order.
        plan: the steps of an epoch.
        noise: mixed into the features.
        keep_clean: keep the features without noise in the batches too.
        with_tokens: make hypotheses of the transcripts.
        teacher_text: make them of a teacher's texts, and of transcripts as it says.
        targets: by the name of a distillation loss, where the teacher's side comes from.
        pad_multiple: see `collate`.
        num_workers: processes; 0 makes batches in this one.
        start_method: of the processes: `fork`, `spawn`, `forkserver`; None is Python's default.
        """
        self._plan = plan
        self._requests: list[_Request] = []
        self._loader: DataLoader[list[Batch] | UserError] = DataLoader(
            _Utterances(
                indexes,
                noise=noise,
                keep_clean=keep_clean,
                with_tokens=with_tokens,
                teacher_text=teacher_text,
                targets=targets or {},
                pad_multiple=pad_multiple,
            ),
            batch_size=None,
            sampler=self._requests,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            prefetch_factor=4 if num_workers > 0 else None,
            multiprocessing_context=start_method if num_workers > 0 else None,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_begin_worker,
            # Otherwise every iteration would draw a number from the global generator.
            generator=torch.Generator(),
        )

    def set_epoch(self, epoch: int, first: int = 0) -> None:
        """Go to step `first` (from 0) of an epoch, without reading those before.

        Args:
            epoch: counts from 1.
            first: steps of it that were trained on before training was interrupted.
        """
        begin = time.monotonic()
        # In place: the DataLoader holds this list.
        self._requests[:] = [(epoch, step) for step in self._plan(epoch, first)]
        if first:
            logging.info(
                "epoch %d: skipped %d of %d steps in %.2f s",
                epoch,
                first,
                first + len(self._requests),
                time.monotonic() - begin,
            )

    def __len__(self) -> int:
        """Steps that an iteration yields."""
        return len(self._requests)

    def __iter__(self) -> Iterator[list[Batch]]:
        yield from items_of(self._loader)


class EvaluationBatches:
    """Batches in a fixed order, one after another; see `eval_loader`."""

    def __init__(self, loader: BatchLoader) -> None:
        self._loader = loader

    def __len__(self) -> int:
        """Batches of this process."""
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        for batches in self._loader:
            yield from batches


def eval_loader(
    cuts_path: str | Path,
    lang_dir: str | Path | None = None,
    *,
    max_duration: float,
    ctc: bool = False,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
    start_method: str | None = None,
    targets: Mapping[str, TargetSource] | None = None,
    pad_multiple: int = 1,
) -> EvaluationBatches:
    """Batches in a fixed order, longest utterances first.

    With `lang_dir`, for losses: with tokens, and without the excluded cuts. Without, for decoding:
    every cut, no tokens.

    Args:
        cuts_path: manifest of cuts.
        lang_dir: folder of `bpe.model` and of the lists of excluded cuts.
        max_duration: limit of batch size x longest utterance, in seconds.
        ctc: whether there is a CTC loss, see `read_excluded`.
        rank: of this process.
        world_size: number of processes. Each utterance goes to one; their numbers of batches differ
            by one at most.
        num_workers: processes that make batches.
        start_method: of the processes; None is Python's default.
        targets: see `BatchLoader`.
        pad_multiple: see `collate`.

    Raises:
        UserError: a file is missing or damaged.
    """
    index = open_index(cuts_path, lang_dir)
    excluded = set() if lang_dir is None else read_excluded(lang_dir, cuts_path, ctc=ctc)
    kept = index.without(excluded)
    batches = plan_evaluation(
        index.seconds[kept], max_duration=max_duration, rank=rank, world_size=world_size
    )
    loader = BatchLoader(
        [index],
        with_tokens=lang_dir is not None,
        plan=lambda epoch, first=0: [[PlannedBatch(kept[batch])] for batch in batches[first:]],
        targets=targets,
        pad_multiple=pad_multiple,
        num_workers=num_workers,
        start_method=start_method,
    )
    loader.set_epoch(0)
    return EvaluationBatches(loader)
