"""From manifests of cuts to batches."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from mvqkd.data.batch import Batch, collate
from mvqkd.data.features import load_features
from mvqkd.data.frame_targets import TargetSource
from mvqkd.data.index import CutIndex, open_index, transcript
from mvqkd.data.jsonl import stem
from mvqkd.data.labelled import choose_labelled, unlabelled_pool
from mvqkd.data.noise import NoiseMixer
from mvqkd.data.plan import (
    interleave,
    plan_evaluation,
    plan_training,
    plan_unlabelled,
    within_limit,
)
from mvqkd.errors import UserError
from mvqkd.geometry import encoder_frames
from mvqkd.workers import end_with_parent


class PlannedBatch(NamedTuple):
    """A batch before its utterances are read."""

    numbers: NDArray[np.int64]
    """(N,) of its utterances."""
    labelled: bool = True
    """Whether it has transcripts."""


Plan = Callable[[int], list[PlannedBatch]]
"""The batches of an epoch, given its number."""

_Request = tuple[int, PlannedBatch]  # epoch, batch


class _Utterances(Dataset[Batch | UserError]):
    """What worker processes hold: the indexes (mapped files) and how to make a batch of them."""

    def __init__(
        self,
        indexes: Sequence[CutIndex],
        *,
        noise: NoiseMixer | None,
        keep_clean: bool,
        with_tokens: bool,
        targets: Mapping[str, TargetSource],
        pad_multiple: int,
    ) -> None:
        self._indexes = indexes
        self._starts = np.cumsum([0, *(len(index) for index in indexes)])
        self._noise = noise
        self._keep_clean = keep_clean and noise is not None
        self._with_tokens = with_tokens
        self._targets = dict(targets)
        self._pad_multiple = pad_multiple

    def __getitem__(self, request: _Request) -> Batch | UserError:
        epoch, planned = request
        try:
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
                clean=clean if self._keep_clean else None,
                pad_multiple=self._pad_multiple,
            )
            lens = encoder_frames(batch.feature_lens).tolist()
            for name, source in self._targets.items():
                batch.targets[name] = source(batch.ids, lens)
        except UserError as error:
            # Returned, since the DataLoader would bury the message in a worker's traceback.
            return error
        return batch

    def _utterance(self, number: int) -> tuple[str, NDArray[np.float32], str, NDArray[np.int32]]:
        source = int(np.searchsorted(self._starts, number, side="right")) - 1
        index, i = self._indexes[source], number - int(self._starts[source])
        cut = index.cut(i)
        features = load_features(cut, index.source)
        return cut["id"], features, transcript(cut), index.tokens(i)


def _begin_worker(worker: int) -> None:
    """A signal to the whole group of processes (`timeout`, batch systems) shall reach the training,
    which writes a checkpoint, and not kill its workers meanwhile. Workers end when it ends."""
    os.setpgrp()
    end_with_parent()


class BatchLoader:
    """Iterates over one rank's batches of an epoch, made by worker processes ahead of time.

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
        targets: Mapping[str, TargetSource] | None = None,
        pad_multiple: int = 1,
        num_workers: int = 0,
        start_method: str | None = None,
    ) -> None:
        """Args:
        indexes: of the manifests; utterances are numbered through them in this order.
        plan: the batches of an epoch.
        noise: mixed into the features.
        keep_clean: keep the features without noise in the batches too.
        with_tokens: make hypotheses of the transcripts.
        targets: by the name of a distillation loss, where the teacher's side comes from.
        pad_multiple: see `collate`.
        num_workers: processes; 0 makes batches in this one.
        start_method: of the processes: `fork`, `spawn`, `forkserver`; None is Python's default.
        """
        self._plan = plan
        self._requests: list[_Request] = []
        self._loader: DataLoader[Batch | UserError] = DataLoader(
            _Utterances(
                indexes,
                noise=noise,
                keep_clean=keep_clean,
                with_tokens=with_tokens,
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

    def set_epoch(self, epoch: int, skip_batches: int = 0) -> None:
        """Go to an epoch and leave out its first batches, without reading them.

        Args:
            epoch: counts from 1.
            skip_batches: batches that were trained on before training was interrupted.
        """
        begin = time.monotonic()
        batches = self._plan(epoch)
        # In place: the DataLoader holds this list.
        self._requests[:] = [(epoch, batch) for batch in batches[skip_batches:]]
        if skip_batches:
            logging.info(
                "epoch %d: skipped %d of %d batches in %.2f s",
                epoch,
                skip_batches,
                len(batches),
                time.monotonic() - begin,
            )

    def __len__(self) -> int:
        """Batches of this rank that an iteration yields."""
        return len(self._requests)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._loader:
            if isinstance(batch, UserError):
                raise batch
            yield batch


def train_loader(
    cuts_paths: str | Path | Iterable[str | Path],
    lang_dir: str | Path,
    *,
    max_duration: float,
    max_tokens: int,
    num_buckets: int,
    seed: int,
    epoch: int,
    rank: int = 0,
    world_size: int = 1,
    skip_batches: int = 0,
    num_workers: int = 0,
    musan_path: str | Path | None = None,
    musan_probability: float = 0.0,
    musan_snr: tuple[float, float] = (10.0, 20.0),
    start_method: str | None = None,
    labelled_hours: float = 0.0,
    unlabelled_cuts: Sequence[Path] = (),
    unlabelled_ratio: float = 0.0,
    targets: Mapping[str, TargetSource] | None = None,
    pad_multiple: int = 1,
) -> BatchLoader:
    """Shuffled batches for training; see `plan_training` for how they are made.

    An epoch is one pass over the labelled utterances: all that are not excluded, or
    `labelled_hours` of them (see `choose_labelled`). With an `unlabelled_ratio`, batches without
    transcripts are spread evenly among its batches, at the same steps on every rank. They come from
    the other utterances of `cuts_paths` and all of `unlabelled_cuts`, and go on from epoch to epoch
    until all were seen, before any is seen again (see `plan_unlabelled`). Lists of excluded cuts
    concern transcripts alone: unlabelled cuts need none, and excluded training cuts are unlabelled
    audio like others. Utterances that exceed the limits of a batch are left out.

    Args:
        cuts_paths: manifests of cuts (`fbank/*_cuts_*.jsonl.gz`).
        lang_dir: folder of `bpe.model` and of the lists of excluded cuts, which are left out.
        max_duration: limit of batch size x longest utterance, in seconds.
        max_tokens: limit of batch size x most tokens.
        num_buckets: buckets of similar duration.
        seed: of order and noise.
        epoch: counts from 1; `set_epoch` leads to the next ones with the same workers.
        rank: of this process.
        world_size: number of training processes; each gets the same number of batches.
        skip_batches: batches at the beginning of the epoch to leave out, for resuming.
        num_workers: processes that make batches.
        musan_path: manifest of noises with features; needed when musan_probability > 0.
        musan_probability: that an utterance gets noise.
        musan_snr: lowest and highest signal-to-noise ratio, in dB.
        start_method: of the processes; None is Python's default.
        labelled_hours: audio that keeps its transcripts, speed-perturbed copies not counted; 0 is
            all.
        unlabelled_cuts: manifests of more audio, transcripts or not; read when the ratio is above
            0.
        unlabelled_ratio: unlabelled batches to a labelled one. The number of unlabelled batches is
            that of the first epoch in all epochs, while labelled ones may be a few more or less.
        targets: see `BatchLoader`.
        pad_multiple: see `collate`.

    Raises:
        UserError: a file is missing or damaged, much of the audio exceeds a limit, there are fewer
            than `labelled_hours`, or there is no unlabelled audio.
    """
    paths = [cuts_paths] if isinstance(cuts_paths, str | Path) else list(cuts_paths)
    more = list(unlabelled_cuts) if unlabelled_ratio > 0 else []
    _check_unlabelled(paths, more, labelled_hours, unlabelled_ratio)
    indexes = [open_index(path, lang_dir) for path in [*paths, *more]]
    kept = _numbers(indexes[: len(paths)], [read_excluded(lang_dir, path) for path in paths])
    all_seconds = np.concatenate([index.seconds for index in indexes])
    all_tokens = np.concatenate([index.num_tokens for index in indexes])
    all_names = np.concatenate([index.ids for index in indexes])
    short = within_limit(all_seconds, max_duration, "duration", seconds=all_seconds, ids=all_names)
    kept = kept[short[kept]]
    kept = kept[
        within_limit(
            all_tokens[kept], max_tokens, "tokens", seconds=all_seconds[kept], ids=all_names[kept]
        )
    ]
    if labelled_hours > 0:
        kept = kept[choose_labelled(all_names[kept], all_seconds[kept], labelled_hours)]
    seconds, num_tokens = all_seconds[kept], all_tokens[kept]
    noise = None
    if musan_probability > 0:
        if musan_path is None or not Path(musan_path).is_file():
            raise UserError(
                f"data.musan_probability is {musan_probability:g}, but there are no MUSAN features "
                f"({musan_path})",
                remedy="./run.sh --musan yes --stop-stage 2 makes them, or "
                "--data.musan_probability 0",
            )
        noise = NoiseMixer(musan_path, probability=musan_probability, snr=musan_snr, seed=seed)

    def plan_labelled(epoch: int) -> list[PlannedBatch]:
        batches = plan_training(
            seconds,
            num_tokens,
            max_duration=max_duration,
            max_tokens=max_tokens,
            num_buckets=num_buckets,
            seed=seed,
            epoch=epoch,
            rank=rank,
            world_size=world_size,
        )
        return [PlannedBatch(kept[batch]) for batch in batches]

    plan: Plan = plan_labelled
    if unlabelled_ratio > 0:
        num_frames = np.concatenate([index.num_frames for index in indexes])
        pool = unlabelled_pool(all_names, num_frames, kept)
        pool = pool[short[pool]]
        if not len(pool):
            raise _no_unlabelled()
        pool_seconds = all_seconds[pool]
        # Of the first epoch: with as many in all, where an epoch begins in the stream needs no plan
        # of those before it.
        count = max(1, round(unlabelled_ratio * len(plan_labelled(1))))
        logging.info(
            "unlabelled: %d utterances, %.4g hours; %d batches in an epoch of this process",
            len(pool),
            pool_seconds.sum() / 3600,
            count,
        )

        def plan_both(epoch: int) -> list[PlannedBatch]:
            batches = plan_unlabelled(
                pool_seconds,
                first=(epoch - 1) * count,
                count=count,
                max_duration=max_duration,
                num_buckets=num_buckets,
                seed=seed,
                rank=rank,
                world_size=world_size,
            )
            unlabelled = [PlannedBatch(pool[batch], labelled=False) for batch in batches]
            return interleave(plan_labelled(epoch), unlabelled)

        plan = plan_both

    loader = BatchLoader(
        indexes,
        plan,
        noise=noise,
        targets=targets,
        pad_multiple=pad_multiple,
        num_workers=num_workers,
        start_method=start_method,
    )
    loader.set_epoch(epoch, skip_batches)
    return loader


def eval_loader(
    cuts_path: str | Path,
    lang_dir: str | Path | None = None,
    *,
    max_duration: float,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
    start_method: str | None = None,
    targets: Mapping[str, TargetSource] | None = None,
    pad_multiple: int = 1,
) -> BatchLoader:
    """Batches in a fixed order, longest utterances first.

    With `lang_dir`, for losses: with tokens, and without the excluded cuts. Without, for decoding:
    every cut, no tokens.

    Args:
        cuts_path: manifest of cuts.
        lang_dir: folder of `bpe.model` and of the lists of excluded cuts.
        max_duration: limit of batch size x longest utterance, in seconds.
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
    excluded = set() if lang_dir is None else read_excluded(lang_dir, cuts_path)
    kept = index.without(excluded)
    batches = plan_evaluation(
        index.seconds[kept], max_duration=max_duration, rank=rank, world_size=world_size
    )
    loader = BatchLoader(
        [index],
        with_tokens=lang_dir is not None,
        plan=lambda epoch: [PlannedBatch(kept[batch]) for batch in batches],
        targets=targets,
        pad_multiple=pad_multiple,
        num_workers=num_workers,
        start_method=start_method,
    )
    loader.set_epoch(0)
    return loader


def excluded_path(lang_dir: str | Path, cuts_path: str | Path) -> Path:
    """Where the excluded cuts of a manifest `<prefix>_cuts_<part>.jsonl.gz` are listed."""
    part = stem(Path(cuts_path)).split("_cuts_")[-1]
    return Path(lang_dir) / f"excluded_{part}.txt"


def read_excluded(lang_dir: str | Path, cuts_path: str | Path) -> set[str]:
    """Ids of the cuts that losses leave out: one a line, the reason after a tab.

    Raises:
        UserError: stage 3 did not check this manifest.
    """
    path = excluded_path(lang_dir, cuts_path)
    if not path.is_file():
        raise UserError(
            f"{path} is missing: the tokens of {cuts_path} were not checked against its frames",
            remedy="./run.sh --stage 3 --stop-stage 3",
        )
    lines = path.read_text(encoding="utf-8").splitlines()
    return {line.split("\t")[0] for line in lines if line.strip()}


def _numbers(indexes: Sequence[CutIndex], excluded: Sequence[set[str]]) -> NDArray[np.int64]:
    """Numbers, through all indexes, of the cuts that are not excluded."""
    starts = np.cumsum([0, *(len(index) for index in indexes)])[:-1]
    return np.concatenate(
        [
            index.without(ids) + start
            for index, ids, start in zip(indexes, excluded, starts, strict=True)
        ]
    )


def _check_unlabelled(
    paths: Sequence[str | Path],
    unlabelled_cuts: Sequence[Path],
    labelled_hours: float,
    unlabelled_ratio: float,
) -> None:
    """Refuse options that name no unlabelled audio, or two manifests by one name."""
    for name, value in (("labelled_hours", labelled_hours), ("unlabelled_ratio", unlabelled_ratio)):
        if not 0 <= value < float("inf"):
            raise UserError(f"data.{name} is {value}", remedy=f"--data.{name} 0 or more")
    # A pool of excluded cuts alone would be a handful of utterances over and over.
    if unlabelled_ratio > 0 and not unlabelled_cuts and labelled_hours == 0:
        raise _no_unlabelled()
    known = {Path(path).name: Path(path).resolve() for path in paths}
    for path in map(Path, unlabelled_cuts):
        other = known.setdefault(path.name, path.resolve())
        # Their indexes have one place in lang_dir.
        if other != path.resolve():
            raise UserError(
                f"{path} and {other} have the same name", remedy="rename one of the two manifests"
            )


def _no_unlabelled() -> UserError:
    return UserError(
        "data.unlabelled_ratio is positive, but there is no unlabelled audio: all utterances of "
        "the training cuts are labelled, and no others are given",
        remedy="--data.labelled_hours below the hours there are, --unlabelled-parts, or "
        "--data.unlabelled_ratio 0",
    )
