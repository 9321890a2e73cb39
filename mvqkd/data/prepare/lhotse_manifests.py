"""Splits that are lhotse manifests: recordings and supervisions, recordings alone, or cuts."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from lhotse import Recording, SupervisionSegment
from lhotse.utils import fastcopy

from mvqkd.data.prepare.audio_files import TOLERANCE, Fault, probe_recording
from mvqkd.data.prepare.listing import Listing, whole
from mvqkd.data.prepare.names import canonical, fault_of_id, is_utf8, printable
from mvqkd.errors import UserError
from mvqkd.storage.jsonl import read_items

_Item = TypeVar("_Item")
_Written = TypeVar("_Written", Recording, SupervisionSegment)
_READ_BY = ("sources", "sampling_rate", "num_samples", "channel_ids", "transforms")
"""Fields of a recording that say what is read."""


@dataclass(frozen=True)
class Manifests:
    """A split in lhotse's manifests.

    Args:
        files: by kind: `recordings`, `supervisions`, `cuts`.
        audio_root: folder that relative paths of audio begin in; where a file is not there, they
            begin in the manifest's folder.
    """

    files: Mapping[str, Path]
    audio_root: Path

    def __call__(self, *, labelled: bool = True) -> Listing:
        """See `SplitLister`."""
        listing = Listing(files=sorted(self.files.values()))
        recordings = _Recordings(self.audio_root)
        segments: list[SupervisionSegment] = []
        if "recordings" in self.files and ("supervisions" in self.files or not labelled):
            path = self.files["recordings"]
            for name, recording in _items(path, recordings.build, listing):
                if recordings.add(name, recording) != name:
                    raise UserError(
                        f"{path} has {printable(name)} twice",
                        remedy="give each recording an id of its own",
                    )
            if "supervisions" in self.files:
                built = _items(self.files["supervisions"], _segment, listing)
                segments = [segment for _, segment in built]
        elif "cuts" in self.files:
            cuts = _Cuts(recordings, listing, labelled=labelled)
            for _, found in _items(self.files["cuts"], cuts.segments, listing):
                segments += found
        else:
            missing = ({"recordings", "supervisions"} - self.files.keys()).pop()
            raise UserError(
                f"{next(iter(self.files.values()))} has no manifest of {missing} beside it"
            )
        if not labelled:
            described = {canonical(segment.recording_id) for segment in segments}
            segments += [whole(name, name) for name in recordings if name not in described]
        _select(segments, recordings, listing)
        return listing


@dataclass
class _Recordings:
    """Recordings by id, or what is wrong with one. An id is no identity: another recording with
    the same one gets an id of its own."""

    audio_root: Path
    found: dict[str, Recording | Fault] = field(default_factory=dict)
    names: dict[tuple[str, int], str] = field(default_factory=dict)
    """By id and a hash of what is read."""

    def __iter__(self) -> Iterator[str]:
        return iter(self.found)

    def build(self, item: dict[str, Any], path: Path) -> Recording | Fault:
        """A recording whose audio is where it is from here."""
        try:
            return self._build(item, path)
        except Fault as fault:
            return fault

    def add(self, name: str, recording: Recording | Fault) -> str:
        """Take a recording in; returns the id that it has here."""
        read = recording.to_dict() if isinstance(recording, Recording) else {}
        parts = [read.get(part) for part in _READ_BY]
        key = name, hash(json.dumps(parts, sort_keys=True, default=str))
        if key not in self.names:
            number, free = 1, name
            while free in self.found:
                number += 1
                free = f"{name}-{number}"
            if isinstance(recording, Recording):
                recording = fastcopy(recording, id=free)
            self.names[key], self.found[free] = free, recording
        return self.names[key]

    def _build(self, item: dict[str, Any], path: Path) -> Recording:
        rate = _number(item, "sampling_rate")
        samples = _number(item, "num_samples")
        if rate < 1 or samples < 0:
            raise Fault("not a recording", f"{samples} samples at {rate} Hz")
        times: dict[str, float] = {"sampling_rate": round(rate), "num_samples": round(samples)}
        seconds = item.get("duration")
        if not isinstance(seconds, float) or not abs(seconds - samples / rate) <= TOLERANCE:
            seconds = samples / rate
        times["duration"] = seconds
        recording = Recording.from_dict({**item, **times, "id": str(item["id"])})
        sources = []
        for source in recording.sources:
            if source.type == "file":
                beside = path.parent / source.source
                place = self.audio_root / source.source
                if beside.exists() and not place.exists():
                    place = beside
                if not is_utf8(str(place.absolute())):
                    raise Fault("name is not UTF-8", printable(str(place)))
                source = fastcopy(source, source=str(place.absolute()))
            sources.append(source)
        return _writable(fastcopy(recording, sources=sources))


def _items(
    path: Path, build: Callable[[dict[str, Any], Path], _Item], listing: Listing
) -> Iterator[tuple[str, _Item]]:
    """The canonical id of each item of a manifest and what it stands for; those with faults go
    into the listing."""
    return _each(read_items(path), build, path, listing, f"line of {path.name}")


def _each(
    items: Iterable[dict[str, Any]],
    build: Callable[[dict[str, Any], Path], _Item],
    path: Path,
    listing: Listing,
    what: str,
) -> Iterator[tuple[str, _Item]]:
    for number, item in enumerate(items, 1):
        name = f"{what} ({number})"
        try:
            name = _id(item, "id")
            yield name, build(item, path)
        except Fault as fault:
            listing.problems.append((printable(name), fault.kind, fault.detail))
        except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
            kind = "not an item of its manifest"
            listing.problems.append((printable(name), kind, f"{path.name}: {error!r}"))


def _select(segments: list[SupervisionSegment], recordings: _Recordings, listing: Listing) -> None:
    """Put utterances that have audio into the listing, and the audio that they need."""
    seen: set[str] = set()
    named: set[str] = set()
    used: set[str] = set()
    for segment in segments:
        recording = canonical(segment.recording_id)
        named.add(recording)
        if segment.id in seen:
            listing.problems.append((segment.id, "duplicate id", "the first was kept"))
        elif recording not in recordings.found:
            detail = f"no recording {printable(segment.recording_id)}"
            listing.problems.append((segment.id, "audio missing", detail))
        else:
            listing.supervisions.append(fastcopy(segment, recording_id=recording))
            used.add(recording)
        seen.add(segment.id)
    for name, found in recordings.found.items():
        if isinstance(found, Fault):
            if name in used:
                listing.probes[name] = partial(_raise, found)
            else:
                listing.problems.append((name, found.kind, found.detail))
        elif name in used:
            listing.probes[name] = partial(probe_recording, found)
            listing.promised[name] = found.num_samples
            paths = [Path(source.source) for source in found.sources if source.type == "file"]
            listing.files += paths
            if paths:
                listing.audio[name] = paths[0]
        elif name not in named:
            listing.problems.append((name, "transcript missing", "recording without any"))


def _segment(item: dict[str, Any], path: Path) -> SupervisionSegment:
    """An utterance of a manifest, with numbers as numbers and text as text."""
    duration = _number(item, "duration")
    if duration <= 0:
        raise Fault("no duration", f"{duration:g} s")
    text = item.get("text")
    if isinstance(text, int | float) and not isinstance(text, bool):
        text = str(text)
    if text is not None and not isinstance(text, str):
        raise Fault("transcript is no text", repr(text)[:100])
    channel = item.get("channel", 0)
    return _writable(
        SupervisionSegment.from_dict(
            {
                **item,
                "id": _id(item, "id"),
                "recording_id": str(item["recording_id"]),
                "start": _number(item, "start"),
                "duration": duration,
                "channel": [int(c) for c in channel] if isinstance(channel, list) else int(channel),
                "text": text,
            }
        )
    )


@dataclass(frozen=True)
class _Cuts:
    """What cuts hold; their recordings go into `recordings`, faults into the listing."""

    recordings: _Recordings
    listing: Listing
    labelled: bool

    def segments(self, cut: dict[str, Any], path: Path) -> list[SupervisionSegment]:
        """Supervisions in the time of the recording, on the channel of a `MonoCut`; those of a
        `MultiCut` have channels of their own."""
        if cut.get("type") not in ("MonoCut", "MultiCut") or "recording" not in cut:
            raise Fault("cut without a recording, or of several", str(cut.get("type")))
        start, duration = _number(cut, "start"), _number(cut, "duration")
        if duration <= 0:
            raise Fault("no duration", f"{duration:g} s")
        name = _id(cut["recording"], "id")
        recording = self.recordings.add(name, self.recordings.build(cut["recording"], path))
        place: dict[str, Any] = {"recording_id": recording, "channel": cut["channel"]}
        supervisions = cut.get("supervisions") or []
        if not supervisions and self.labelled:
            raise Fault("transcript missing")
        if not supervisions:
            segment = whole(_id(cut, "id"), recording)
            return [fastcopy(segment, **place, start=start, duration=duration)]
        if cut["type"] == "MultiCut":
            del place["channel"]
        items = ({**item, "recording_id": name} for item in supervisions)
        found = _each(items, _segment, path, self.listing, f"supervision of cut {cut.get('id')}")
        return [fastcopy(segment.with_offset(start), **place) for _, segment in found]


def _id(item: dict[str, Any], key: str) -> str:
    if not isinstance(item[key], str | int):
        raise TypeError(f"{key} is {item[key]!r}")
    name = canonical(str(item[key]))
    if fault := fault_of_id(name):
        raise Fault(fault, printable(name))
    return name


def _number(item: dict[str, Any], key: str) -> float:
    """A number, perhaps written as text."""
    try:
        number = float(item[key])
    except (KeyError, TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise Fault("not a finite number", f"{key} is {item.get(key)!r}")
    return number


def _writable(item: _Written) -> _Written:
    """The same item, whose texts manifests can hold."""
    if not is_utf8(json.dumps(item.to_dict(), ensure_ascii=False, default=str)):
        raise Fault("text that is not UTF-8")
    return item


def _raise(fault: Fault) -> NoReturn:
    raise fault
