"""Validated manifests: every utterance in them has readable audio, and a transcript where one is
needed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from lhotse import Recording, SupervisionSegment
from lhotse.utils import fastcopy
from tqdm import tqdm

from mvqkd.data.folder import DataFolder
from mvqkd.data.prepare.audio_files import Fault, probe_file
from mvqkd.data.prepare.preparation_report import PreparationReport, read_report
from mvqkd.data.prepare.sources import Listing, list_splits
from mvqkd.data.splits import choose_splits
from mvqkd.errors import UserError
from mvqkd.geometry import SAMPLE_RATE
from mvqkd.storage.jsonl import fingerprint, write_items

_VERSION = 1
MUSAN_KINDS = ("music", "speech", "noise")


def prepare_manifests(
    corpus_dir: Path,
    patterns: Mapping[str, Iterable[str]],
    data_dir: Path,
    *,
    prefix: str,
    min_seconds: float,
    max_seconds: float,
    num_jobs: int,
    strict: bool = False,
) -> dict[str, list[str]]:
    """Write `<data_dir>/manifests/<prefix>_{recordings,supervisions}_<split>.jsonl.gz` and a report
    for each split, and last `data.json`, which records for later stages what was prepared.

    A split whose files and limits did not change since it was written is kept.

    Args:
        corpus_dir: a LibriSpeech tree or a folder of lhotse manifests.
        patterns: names or patterns of splits by role, see `choose_splits`; unlabelled ones need no
            transcripts. An id in two splits of one role stays in the first.
        data_dir: `data/<recipe>`.
        prefix: of the files' names.
        min_seconds: shorter utterances are left out.
        max_seconds: longer utterances are left out.
        num_jobs: threads that decode audio.
        strict: write nothing when an utterance is invalid.

    Returns:
        Names of the splits by role.

    Raises:
        UserError: there are no such splits, no valid utterances, or invalid ones and `strict`;
            utterances are in splits of different roles; `data_dir` is of another corpus.
    """
    available = list_splits(corpus_dir)
    data = DataFolder(data_dir)
    data.check_corpus(corpus_dir)
    splits = choose_splits(patterns, available, corpus_dir, remedy="take another corpus")
    owner: dict[str, tuple[str, str]] = {}
    for role, split in [(role, split) for role, names in splits.items() for split in names]:
        labelled = role != "unlabelled"
        purpose = role if labelled else "train"
        listing = available[split](labelled=labelled)
        kept, shared = [], []
        for segment in listing.supervisions:
            first, its_purpose = owner.setdefault(segment.id, (split, purpose))
            if first == split:
                kept.append(segment)
            elif its_purpose == purpose:
                detail = f"also in {first}, where it is kept"
                listing.problems.append((segment.id, "duplicate id", detail))
            else:
                shared.append((first, its_purpose, segment.id))
        if shared:
            first, its_purpose, example = shared[0]
            raise UserError(
                f"{len(shared)} utterances of {split} are in other splits too: {example} is in "
                f"{first}, which is for {its_purpose}, while {split} is for {purpose}",
                remedy="name splits without common utterances for the roles",
            )
        listing.supervisions = kept
        _prepare_split(
            f"{prefix}_{split}",
            listing,
            {
                kind: data.manifests / f"{prefix}_{kind}_{split}.jsonl.gz"
                for kind in ("recordings", "supervisions")
            },
            data.manifests / f"{prefix}_{split}.report.json",
            limits=(min_seconds, max_seconds),
            num_jobs=num_jobs,
            strict=strict,
            labelled=labelled,
        )
    data.record_splits(corpus_dir, prefix, splits)
    return splits


def prepare_musan(corpus_dir: Path, output_dir: Path, *, num_jobs: int, strict: bool) -> None:
    """Write `musan_recordings_{music,speech,noise}.jsonl.gz` and their reports.

    Args:
        corpus_dir: folder of `music`, `speech` and `noise`, or the folder that has it as `musan`.
        output_dir: `data/<recipe>/manifests`.
        num_jobs: threads that decode audio.
        strict: write nothing when a file is invalid.

    Raises:
        UserError: a folder is missing or has no audio.
    """
    root = corpus_dir / "musan" if (corpus_dir / "musan").is_dir() else corpus_dir
    for kind in MUSAN_KINDS:
        paths = sorted((root / kind).rglob("*.wav"))
        if not paths:
            raise UserError(
                f"{root / kind} has no *.wav",
                remedy="name the folder that has MUSAN, or download it",
                step="corpus",
                parameters=("musan_dir",),
            )
        listing = Listing(files=paths)
        listing.probes = {
            path.stem: partial(probe_file, path.stem, path.absolute()) for path in paths
        }
        _prepare_split(
            f"musan_{kind}",
            listing,
            {"recordings": output_dir / f"musan_recordings_{kind}.jsonl.gz"},
            output_dir / f"musan_{kind}.report.json",
            limits=(0.0, float("inf")),
            num_jobs=num_jobs,
            strict=strict,
            labelled=False,
        )


def _prepare_split(
    name: str,
    listing: Listing,
    outputs: dict[str, Path],
    report_path: Path,
    *,
    limits: tuple[float, float],
    num_jobs: int,
    strict: bool,
    labelled: bool,
) -> None:
    """Check a split's audio and write its manifests, the report last."""
    stamp = _fingerprint(listing, limits, labelled)
    done = read_report(report_path)
    if done.get("fingerprint") == stamp and all(path.is_file() for path in outputs.values()):
        if strict and done.get("left_out"):
            raise UserError(
                f"{name} has invalid utterances: see {report_path}",
                remedy="mend them, or leave them out",
                parameters=("strict",),
            )
        logging.info("%s: done before, %d utterances", name, done["utterances"])
        return
    report = PreparationReport(name)
    for utterance, kind, detail in listing.problems:
        report.leave_out(utterance, kind, detail)
    probed = _probe(name, listing.probes, num_jobs)
    recordings = {key: found for key, found in probed.items() if isinstance(found, Recording)}
    segments = []
    if "supervisions" in outputs:
        for segment in listing.supervisions:
            fault = _fault(segment, probed[segment.recording_id], limits, labelled)
            if fault is None:
                segments.append(_complete(segment, recordings[segment.recording_id]))
            else:
                report.leave_out(segment.id, fault.kind, fault.detail)
        used = {segment.recording_id for segment in segments}
        recordings = {key: found for key, found in recordings.items() if key in used}
    else:
        for key, found in probed.items():
            if isinstance(found, Fault):
                report.leave_out(key, found.kind, found.detail)
    recordings = {key: _standardize(found, report) for key, found in recordings.items()}
    report.check(strict=strict)
    items: Sequence[Recording | SupervisionSegment] = segments or list(recordings.values())
    if not items:
        raise UserError(f"{name} has no valid utterance", remedy="see the warnings above")
    hours = sum(item.duration for item in items) / 3600
    report_path.unlink(missing_ok=True)  # written last, it says that the others belong together
    write_items(outputs["recordings"], (item.to_dict() for item in recordings.values()))
    if "supervisions" in outputs:
        write_items(outputs["supervisions"], (segment.to_dict() for segment in segments))
    report.write(report_path, utterances=len(items), hours=round(hours, 4), fingerprint=stamp)
    logging.info("%s: %d utterances, %.2f hours", name, len(items), hours)


def _fingerprint(listing: Listing, limits: tuple[float, float], labelled: bool) -> str:
    """Of all that the manifests of a split depend on; audio files by size and time of change."""
    files = []
    for path in listing.files:
        try:
            status = path.stat()
            files.append((str(path), status.st_size, status.st_mtime_ns))
        except OSError:
            files.append((str(path), -1, -1))
    return fingerprint(_VERSION, files, listing.problems, limits, labelled)


def _probe(
    name: str, probes: dict[str, Callable[[], Recording]], num_jobs: int
) -> dict[str, Recording | Fault]:
    """Run all probes. Threads do: decoding happens outside of Python's lock."""

    def run(probe: Callable[[], Recording]) -> Recording | Fault:
        try:
            return probe()
        except Fault as fault:
            return fault

    with ThreadPoolExecutor(num_jobs) as pool:
        results = tqdm(
            pool.map(run, probes.values()), total=len(probes), desc=f"reading {name}", unit="file"
        )
        return dict(zip(probes, results, strict=True))


def _fault(
    segment: SupervisionSegment,
    found: Recording | Fault,
    limits: tuple[float, float],
    labelled: bool,
) -> Fault | None:
    """What is wrong with an utterance, its audio included."""
    if isinstance(found, Fault):
        return found
    if labelled and not (segment.text or "").strip():
        return Fault("transcript empty")
    seconds = segment.duration or found.duration
    if segment.start < 0 or segment.start + seconds > found.duration + 0.5 / found.sampling_rate:
        detail = f"{segment.start} s + {seconds} s in a recording of {found.duration} s"
        return Fault("beyond the end of its recording", detail)
    shortest, longest = limits
    if seconds < shortest:
        return Fault("too short", f"{seconds:.3f} s")
    if seconds > longest:
        return Fault("too long", f"{seconds:.3f} s")
    return None


def _complete(segment: SupervisionSegment, recording: Recording) -> SupervisionSegment:
    """One channel; the whole recording when the segment has no duration."""
    channel = segment.channel if isinstance(segment.channel, int) else segment.channel[0]
    if channel not in recording.channel_ids:
        channel = recording.channel_ids[0]
    duration = segment.duration or recording.duration
    return fastcopy(segment, channel=channel, duration=duration)


def _standardize(recording: Recording, report: PreparationReport) -> Recording:
    """At 16 kHz, resampled when it is read. Of several channels, cuts read the first."""
    if recording.num_channels > 1:
        detail = f"{recording.num_channels} channels"
        report.change(recording.id, "the first of several channels is used", detail)
    if recording.sampling_rate == SAMPLE_RATE:
        return recording
    detail = f"from {recording.sampling_rate} Hz"
    report.change(recording.id, f"resampled to {SAMPLE_RATE} Hz", detail)
    return recording.resample(SAMPLE_RATE)
