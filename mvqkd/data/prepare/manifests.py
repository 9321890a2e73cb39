"""Validated manifests: every utterance in them has readable audio, and a transcript where one is
needed."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lhotse import Recording, SupervisionSegment
from tqdm import tqdm

from mvqkd.data.folder import DataFolder
from mvqkd.data.prepare.audio_files import Fault
from mvqkd.data.prepare.listing import Listing
from mvqkd.data.prepare.normalization import is_composed
from mvqkd.data.prepare.owners import Owners
from mvqkd.data.prepare.preparation_report import PreparationReport, read_report
from mvqkd.data.prepare.sources import list_splits
from mvqkd.data.prepare.utterances import Rules, complete
from mvqkd.data.splits import choose_splits
from mvqkd.errors import UserError
from mvqkd.geometry import SAMPLE_RATE
from mvqkd.storage.jsonl import fingerprint, write_items

_VERSION = 2
"""Of the rules by which utterances are taken: other ones make manifests anew."""


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
    text_normalization: str = "identity",
    audio_root: Path | None = None,
) -> dict[str, list[str]]:
    """Write `<data_dir>/manifests/<prefix>_{recordings,supervisions}_<split>.jsonl.gz` and a report
    for each split, and last `data.json`, which records for later stages what was prepared.

    A split whose files and limits did not change since it was written is kept.

    Args:
        corpus_dir: see `list_splits`.
        patterns: names or patterns of splits by role, see `choose_splits`; unlabelled ones need no
            transcripts. An id in two splits of one role stays in the first, see `Owners`.
        data_dir: `data/<recipe>`.
        prefix: of the files' names.
        min_seconds: shorter utterances are left out.
        max_seconds: longer utterances are left out.
        num_jobs: threads that decode audio.
        strict: write nothing when an utterance is invalid.
        text_normalization: of all transcripts, those of references too: a key of
            `NORMALIZATIONS`.
        audio_root: folder that relative paths in manifests begin in; None: the current one.

    Returns:
        Names of the splits by role.

    Raises:
        UserError: there are no such splits, no valid utterances, or invalid ones and `strict`;
            utterances are in splits of different roles; `data_dir` is of another corpus.
    """
    available = list_splits(corpus_dir, audio_root)
    data = DataFolder(data_dir)
    data.check_corpus(corpus_dir)
    splits = choose_splits(patterns, available, corpus_dir, remedy="take another corpus")
    owners = Owners()
    for role, split in [(role, split) for role, names in splits.items() for split in names]:
        labelled = role != "unlabelled"
        purpose = role if labelled else "train"
        listing = available[split](labelled=labelled)
        owners.settle(split, purpose, listing)
        prepare_split(
            f"{prefix}_{split}",
            listing,
            {
                kind: data.manifests / f"{prefix}_{kind}_{split}.jsonl.gz"
                for kind in ("recordings", "supervisions")
            },
            data.manifests / f"{prefix}_{split}.report.json",
            rules=Rules(min_seconds, max_seconds, labelled, text_normalization),
            num_jobs=num_jobs,
            strict=strict,
        )
    data.record_splits(corpus_dir, prefix, splits)
    return splits


def prepare_split(
    name: str,
    listing: Listing,
    outputs: dict[str, Path],
    report_path: Path,
    *,
    rules: Rules,
    num_jobs: int,
    strict: bool,
) -> None:
    """Check a split's audio and write its manifests, the report last.

    Args:
        name: of the split, for the log.
        listing: what it holds.
        outputs: manifests by kind: `recordings`, and `supervisions` where utterances are wanted.
        report_path: `<prefix>_<split>.report.json`.
        rules: what is asked of utterances.
        num_jobs: threads that decode audio.
        strict: write nothing when an utterance is invalid.

    Raises:
        UserError: no utterance is valid, or `strict` and one is not.
    """
    audio = _fingerprint(listing, rules)
    stamp = fingerprint(_VERSION, audio, rules.normalization)
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
    for utterance, kind, detail in listing.changes:
        report.change(utterance, kind, detail)
    for path, why in listing.unused:
        report.not_used(path, why)
    probed = _probe(name, listing.probes, num_jobs)
    recordings = {key: found for key, found in probed.items() if isinstance(found, Recording)}
    for key, found in recordings.items():
        promised = listing.promised.get(key, found.num_samples)
        if found.num_samples != promised:
            detail = f"{found.num_samples} samples, not {promised}"
            report.change(key, "as long as its audio, not as its manifest says", detail)
    segments = []
    if "supervisions" in outputs:
        for segment in listing.supervisions:
            try:
                found = probed[segment.recording_id]
                segments.append(complete(segment, found, rules, report))
            except Fault as fault:
                report.leave_out(segment.id, fault.kind, fault.detail)
        if loose := [segment.id for segment in segments if not is_composed(segment.text)]:
            logging.warning(
                "%s: %d of %d transcripts are not in Unicode's form NFC, that of %s among them: "
                "what looks the same may be other characters, unless text is normalized (nfc)",
                *(name, len(loose), len(segments), loose[0]),
            )
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
    report.write(
        report_path,
        utterances=len(items),
        hours=round(hours, 4),
        max_seconds=rules.max_seconds if math.isfinite(rules.max_seconds) else None,
        text_normalization=rules.normalization,
        fingerprint=stamp,
        audio=audio,
    )
    logging.info("%s: %d utterances, %.2f hours", name, len(items), hours)


def _fingerprint(listing: Listing, rules: Rules) -> str:
    """Of a split's files, by size and time of change, and of which utterances are taken. Features
    are extracted anew when it changes: it does not change when this program does."""
    files = []
    for path in listing.files:
        try:
            status = path.stat()
            files.append((str(path), status.st_size, status.st_mtime_ns))
        except OSError:
            files.append((str(path), -1, -1))
    limits = rules.min_seconds, rules.max_seconds
    changes = [listing.changes] if listing.changes else []
    return fingerprint(1, files, listing.problems, limits, rules.labelled, *changes)


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


def _standardize(recording: Recording, report: PreparationReport) -> Recording:
    """At 16 kHz, resampled when it is read."""
    if recording.sampling_rate == SAMPLE_RATE:
        return recording
    detail = f"from {recording.sampling_rate} Hz"
    report.change(recording.id, f"resampled to {SAMPLE_RATE} Hz", detail)
    return recording.resample(SAMPLE_RATE)
