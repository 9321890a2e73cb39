"""Stage 2: from manifests to cuts with stored features.

The work is divided into shards of a fixed number of utterances, whatever the number of processes. A
shard is two files, features and cuts, each renamed into place when it is whole; the manifest of all
cuts comes last. Killed at any moment, the same command goes on with the shards that are missing and
ends with the same bytes.
"""

from __future__ import annotations

import logging
import re
import shutil
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from lhotse import Features, MonoCut, Recording, SupervisionSegment
from lhotse.features.compression import lilcom_compress_chunked
from lhotse.features.io import CHUNKY_FORMAT_CHUNK_SIZE
from lhotse.serialization import deserialize_item
from lhotse.utils import fastcopy
from numpy.typing import NDArray
from tqdm import tqdm

from mvqkd.data.folder import DataFolder
from mvqkd.data.prepare.preparation_report import PreparationReport, read_report
from mvqkd.data.prepare.speeds import speeds_of
from mvqkd.errors import UserError
from mvqkd.features.extraction import extract, extractor
from mvqkd.features.kinds import KIND
from mvqkd.features.reading import CHECKSUM, read_audio
from mvqkd.geometry import FEATURE_BINS, FRAME_SHIFT, SAMPLE_RATE, FeatureKind, num_features
from mvqkd.runtime.workers import end_with_parent
from mvqkd.storage.files import atomic_path, make_folder
from mvqkd.storage.jsonl import fingerprint, read_built, read_items, stem, write_items

_VERSION = 1
_SHARD_SIZE = 200
"""Cuts of the manifest in a shard, speed-perturbed copies not counted."""
_BAR = "{desc}: {percentage:.0f}% |{bar}| {n:.2f}/{total:.2f} h [{elapsed}<{remaining}{postfix}]"
_TICK_POWER = -5
"""lilcom's precision: energies are rounded to multiples of 2^-5 = 0.03, as in icefall."""


def manifest_cuts(data: DataFolder, split: str) -> list[MonoCut]:
    """One cut for each utterance of a split; its id is the utterance's.

    Raises:
        UserError: the manifests are missing, or do not belong together.
    """
    paths = [data.manifest(kind, split) for kind in ("recordings", "supervisions")]
    for path in paths:
        if not path.is_file():
            raise UserError(f"{path} is missing", step="manifests")
    recordings = {item.id: item for item in read_built(paths[0], Recording.from_dict)}
    cuts = []
    for segment in read_built(paths[1], SupervisionSegment.from_dict):
        recording = recordings.get(segment.recording_id)
        if recording is None:
            raise UserError(
                f"{paths[1]}: {segment.id} is of recording {segment.recording_id}, which is not in "
                f"{paths[0].name}",
                remedy="delete both",
                step="manifests",
            )
        cuts.append(
            MonoCut(
                id=segment.id,
                start=segment.start,
                duration=segment.duration,
                channel=int(segment.channel),
                recording=recording,
                supervisions=[fastcopy(segment, start=0.0)],
            )
        )
    return cuts


def store_features(
    cuts: Sequence[MonoCut],
    output: Path,
    *,
    kind: FeatureKind = "fbank",
    speeds: Sequence[float] = (1.0,),
    num_jobs: int,
    strict: bool = False,
    audio: str = "",
) -> None:
    """Write a manifest of cuts with features, each cut at every speed.

    Features are stored as `feats_<name>-<hash>/*.lca` (lhotse's `lilcom_chunky`) beside the
    manifest, facts and problems as `<name>.report.json`. What was done before is kept.

    Args:
        cuts: as `manifest_cuts` or `noise_cuts` make them.
        output: `fbank/<prefix>_cuts_<split>.jsonl.gz`.
        kind: of features.
        speeds: factors; copies at other speeds than 1 are named `<id>_sp<factor>`. Those that are
            among the cuts are not made again, see `speeds_of`.
        num_jobs: processes.
        strict: write no manifest when a cut's audio is unreadable.
        audio: identifies the state of the audio files; if it has changed, everything is extracted
            anew, even where the cuts are the same.

    Raises:
        UserError: as above, or no audio is readable, or there are features at other speeds or of
            another kind.
    """
    begin = time.monotonic()
    items = [cut.to_dict() for cut in cuts]
    config = extractor(kind).config.to_dict()
    stamp = fingerprint(_VERSION, items, list(speeds), config, _TICK_POWER, _SHARD_SIZE)
    name = stem(output)
    folder = output.with_name(f"feats_{name}-{stamp[:8]}")
    done = read_report(_report_path(output))
    if output.is_file() and done.get("speeds", list(speeds)) != list(speeds):
        raise UserError(
            f"{output} has its utterances at the speeds {done['speeds']}, not {list(speeds)}, and "
            "experiments may be trained on it",
            remedy=f"take another folder; or delete {output}, and it is made anew",
            parameters=("data_dir",),
        )
    _refuse_other_kind(output, done, kind)
    changed = done.get("audio", audio) != audio
    if not changed and _is_done(output, stamp, _sizes(folder)):
        return
    if changed:
        logging.info("%s: the audio has changed since its features were extracted", name)
        # First: a run that is killed goes on with the new ones.
        _report_path(output).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder)
    each = speeds_of(cuts, speeds)
    shards = [
        _Shard(
            items[first : first + _SHARD_SIZE],
            each[first : first + _SHARD_SIZE],
            folder / f"{number:06d}",
            kind,
        )
        for number, first in enumerate(range(0, len(items), _SHARD_SIZE))
    ]
    hours = _extract_missing(name, shards, num_jobs)
    report = PreparationReport(name)
    results: list[dict[str, Any]] = []
    for shard in shards:
        for item in read_items(shard.manifest):
            if "problem" in item:
                report.leave_out(item["id"], "audio unreadable", item["problem"])
            else:
                results.append(item)
    report.check(strict=strict)
    facts = {"audio": audio, "speeds": list(speeds), "kind": kind}
    _write(output, results, report, stamp, _sizes(folder), folder, **facts)
    for leftover in folder.glob(".tmp-*"):  # of a killed run
        leftover.unlink(missing_ok=True)
    seconds = time.monotonic() - begin
    logging.info(
        "%s: %d cuts, %.1f MB; extracted %.2f hours of audio in %.0f s (%.0f x real time)",
        name,
        len(results),
        sum(_sizes(folder).values()) / 1e6,
        hours,
        seconds,
        hours / seconds * 3600,
    )


def store_cuts(
    cuts: Sequence[MonoCut],
    output: Path,
    *,
    kind: FeatureKind = "fbank",
    speeds: Sequence[float] = (1.0,),
) -> None:
    """Write a manifest of cuts without features; loaders then extract them from the audio.

    Args:
        cuts: as `manifest_cuts` makes them.
        output: `fbank/<prefix>_cuts_<split>.jsonl.gz`.
        kind: of those features.
        speeds: as of `store_features`.

    Raises:
        UserError: there are cuts for another kind.
    """
    _refuse_other_kind(output, read_report(_report_path(output)), kind)
    if kind != "fbank":
        cuts = [fastcopy(cut, custom={**(cut.custom or {}), KIND: kind}) for cut in cuts]
    results = [
        _at_speed(cut, speed).to_dict()
        for cut, own in zip(cuts, speeds_of(cuts, speeds), strict=True)
        for speed in own
    ]
    stamp = fingerprint(_VERSION, results)
    if not _is_done(output, stamp, {}):
        _write(
            output, results, PreparationReport(stem(output)), stamp, {}, None, audio="", kind=kind
        )
        logging.info("%s: %d cuts, features on the fly", stem(output), len(results))


def _report_path(output: Path) -> Path:
    return output.with_name(f"{stem(output)}.report.json")


def _refuse_other_kind(output: Path, done: dict[str, Any], kind: FeatureKind) -> None:
    """By its report; those of earlier versions do not say it."""
    if output.is_file() and (there := done.get("kind", "fbank")) != kind:
        raise UserError(
            f"{output} has {there} features, not {kind}, and experiments may be trained on it",
            remedy=f"take another folder; or delete {output}, and it is made anew",
            parameters=("data_dir", "features"),
        )


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of each archive of features."""
    return {path.name: path.stat().st_size for path in sorted(folder.glob("[0-9]*.lca"))}


def _is_done(output: Path, stamp: str, sizes: dict[str, int]) -> bool:
    done = read_report(_report_path(output))
    if not output.is_file() or (done.get("fingerprint"), done.get("sizes")) != (stamp, sizes):
        return False
    if done["left_out"]:
        return False  # perhaps the audio is readable now
    logging.info("%s: done before, %d cuts", stem(output), done["cuts"])
    return True


def _write(
    output: Path,
    cuts: list[dict[str, Any]],
    report: PreparationReport,
    stamp: str,
    sizes: dict[str, int],
    folder: Path | None,
    **more: Any,
) -> None:
    """The manifest, its report, and the end of features that are not in `folder`."""
    if not cuts:
        raise UserError(f"{output}: no audio is readable", remedy="see the warnings above")
    path = _report_path(output)
    path.unlink(missing_ok=True)  # written last, it says that manifest and features are whole
    write_items(output, cuts)
    hours = round(sum(item["duration"] for item in cuts) / 3600, 4)
    facts = {"cuts": len(cuts), "hours": hours, "fingerprint": stamp, "sizes": sizes}
    report.write(path, **facts, **more)
    # Not of a split whose name begins with this one's: dev and dev-other.
    own = re.compile(rf"feats_{re.escape(stem(output))}-[0-9a-f]{{8}}")
    for old in output.parent.iterdir():
        if own.fullmatch(old.name) and old != folder:
            shutil.rmtree(old)


def _at_speed(cut: MonoCut, speed: float) -> MonoCut:
    return cut if speed == 1.0 else cut.perturb_speed(speed)


@dataclass(frozen=True)
class _Shard:
    """A piece of work for one process."""

    cuts: list[dict[str, Any]]
    speeds: list[tuple[float, ...]]
    """Of each cut."""
    stem: Path
    kind: FeatureKind

    @property
    def archive(self) -> Path:
        return self.stem.with_suffix(".lca")

    @property
    def manifest(self) -> Path:
        """Of its cuts with features; a cut that failed is `{"id": ..., "problem": ...}`."""
        return self.stem.with_suffix(".jsonl.gz")

    @property
    def seconds(self) -> float:
        return sum(
            cut["duration"] / speed
            for cut, speeds in zip(self.cuts, self.speeds, strict=True)
            for speed in speeds
        )

    def is_done(self) -> bool:
        """Whether all of it is there, without failures."""
        if not (self.archive.is_file() and self.manifest.is_file()):
            return False
        return not any("problem" in item for item in read_items(self.manifest))


def _extract_missing(name: str, shards: Sequence[_Shard], num_jobs: int) -> float:
    """Extract the shards that are not done, in processes; returns hours of audio."""
    missing = [shard for shard in shards if not shard.is_done()]
    if len(missing) < len(shards):
        done = len(shards) - len(missing)
        logging.info("%s: %d of %d shards were done before", name, done, len(shards))
    hours = sum(shard.seconds for shard in missing) / 3600
    begin = time.monotonic()
    with (
        tqdm(total=hours, desc=f"features of {name}", bar_format=_BAR) as bar,
        ProcessPoolExecutor(max(1, min(num_jobs, len(missing))), initializer=_begin_worker) as pool,
    ):
        futures = {pool.submit(_extract_shard, shard): shard for shard in missing}
        try:
            for future in as_completed(futures):
                future.result()
                # Sums of fractions may exceed the total by a rounding error, of which tqdm warns.
                bar.n = min(hours, bar.n + futures[future].seconds / 3600)
                speed = bar.n / (time.monotonic() - begin) * 3600
                bar.set_postfix_str(f"{speed:.0f} x real time")
        except BrokenProcessPool:
            raise UserError(
                f"{name}: a process that extracted features was killed",
                remedy="fewer processes need less memory; the same command goes on",
                parameters=("num_jobs",),
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return hours


def _begin_worker() -> None:
    torch.set_num_threads(1)  # the processes share the cores
    end_with_parent()


def _extract_shard(shard: _Shard) -> None:
    items: list[dict[str, Any]] = []
    with atomic_path(shard.archive) as partial, open(partial, "wb") as file:
        for item, speeds in zip(shard.cuts, shard.speeds, strict=True):
            cut = deserialize_item(item)
            for speed in speeds:
                copy = _at_speed(cut, speed)
                try:
                    samples = read_audio(copy)
                except UserError as error:
                    items.append({"id": copy.id, "problem": error.problem})
                else:
                    # Not of the cut itself: lhotse warns of copies of cuts with features.
                    features, checksum = _store(
                        extract(samples, shard.kind), shard.kind, copy, file, shard.archive
                    )
                    custom = {**(copy.custom or {}), CHECKSUM: checksum}
                    items.append(fastcopy(copy, features=features, custom=custom).to_dict())
    write_items(shard.manifest, items)  # last: its presence says that the archive is whole


def _store(
    features: NDArray[np.float32],
    kind: FeatureKind,
    cut: MonoCut,
    file: BinaryIO,
    archive: Path,
) -> tuple[Features, int]:
    """Append features to an archive in lhotse's `lilcom_chunky` format; also returns the CRC-32 of
    their bytes."""
    expected = (num_features(round(cut.duration * SAMPLE_RATE)), FEATURE_BINS[kind])
    if features.shape != expected or not np.isfinite(features).all():
        raise RuntimeError(f"features of {cut.id}: shape {features.shape} or values are wrong")
    offset = file.tell()
    chunks = lilcom_compress_chunked(
        features, tick_power=_TICK_POWER, chunk_size=CHUNKY_FORMAT_CHUNK_SIZE
    )
    sizes = [file.write(chunk) for chunk in chunks]
    stored = Features(
        type=extractor(kind).name,
        num_frames=len(features),
        num_features=FEATURE_BINS[kind],
        frame_shift=FRAME_SHIFT,
        sampling_rate=SAMPLE_RATE,
        start=cut.start,
        duration=cut.duration,
        storage_type="lilcom_chunky",
        storage_path=str(archive),
        storage_key=",".join(map(str, [offset, *sizes])),
        recording_id=cut.recording_id,
        channels=cut.channel,
    )
    return stored, zlib.crc32(b"".join(chunks))
