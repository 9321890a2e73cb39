"""Finding utterances: LibriSpeech trees, and folders of lhotse manifests."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from lhotse import Recording, SupervisionSegment
from lhotse.utils import fastcopy

from mvqkd.data.prepare.audio_files import probe_file, probe_recording
from mvqkd.errors import UserError
from mvqkd.storage.jsonl import read_items

AUDIO_SUFFIXES = (".flac", ".wav", ".opus", ".ogg", ".mp3")
_MANIFEST = re.compile(
    r"^(?:.*_)?(?P<kind>recordings|supervisions|cuts)_(?P<split>.+)\.jsonl(?:\.gz)?$"
)


@dataclass
class Listing:
    """A split of a corpus, its audio not examined yet."""

    probes: dict[str, Callable[[], Recording]] = field(default_factory=dict)
    """By recording id: decodes the audio and describes it, or raises Fault."""
    supervisions: list[SupervisionSegment] = field(default_factory=list)
    """Utterances; a duration of 0 stands for the whole recording."""
    problems: list[tuple[str, str, str]] = field(default_factory=list)
    """(utterance, kind, detail) of what can be seen without audio."""
    files: list[Path] = field(default_factory=list)
    """All files that this split was read from, audio included."""


class SplitLister(Protocol):
    """How to list a split of a corpus."""

    def __call__(self, *, labelled: bool = True) -> Listing:
        """List it; not `labelled`: audio without a transcript is no problem, and is listed with an
        empty one."""
        ...


def list_splits(corpus_dir: Path) -> dict[str, SplitLister]:
    """How to list each split, by its name.

    Args:
        corpus_dir: `<dir>[/LibriSpeech]/<split>/<speaker>/<chapter>/*.trans.txt`, or a folder of
            lhotse manifests (`recordings` and `supervisions`, or `cuts`; `recordings` alone without
            transcripts). A folder of audio beside the splits of a tree is a split without
            transcripts.

    Raises:
        UserError: it is neither.
    """
    if not corpus_dir.is_dir():
        raise UserError(
            f"the corpus folder {corpus_dir} does not exist",
            step="corpus",
            parameters=("corpus_dir",),
        )
    manifests: dict[str, dict[str, Path]] = {}
    for path in sorted(corpus_dir.iterdir()):
        if match := _MANIFEST.match(path.name):
            files = manifests.setdefault(match["split"], {})
            if match["kind"] in files:
                raise UserError(
                    f"{corpus_dir} has two manifests of {match['kind']} of the split "
                    f"{match['split']}: {files[match['kind']].name} and {path.name}",
                    remedy="one folder for each corpus, or another name for the split",
                )
            files[match["kind"]] = path
    if manifests:
        return {split: _Manifests(files) for split, files in manifests.items()}
    root = corpus_dir / "LibriSpeech"
    if not root.is_dir():
        root = corpus_dir
    folders: dict[str, SplitLister] = {
        path.name: _Tree(path.absolute())
        for path in sorted(root.iterdir())
        if path.is_dir() and (next(path.glob("*/*/*.trans.txt"), None) or _has_audio(path))
    }
    if not folders:
        raise UserError(
            f"{corpus_dir} has neither <split>/<speaker>/<chapter>/*.trans.txt nor lhotse "
            "manifests",
            remedy="name a LibriSpeech tree or a folder of lhotse manifests",
            parameters=("corpus_dir",),
        )
    return folders


@dataclass(frozen=True)
class _Tree:
    """A split in LibriSpeech's layout."""

    folder: Path

    def __call__(self, *, labelled: bool = True) -> Listing:
        listing = Listing()
        audio: dict[str, Path] = {}
        texts: dict[str, str] = {}
        # Audio without transcripts may lie at any depth.
        found = self.folder.glob("*/*/*") if labelled else self.folder.rglob("*")
        paths = sorted(path for path in found if path.is_file())
        listing.files = [path for path in paths if path.suffix in (*AUDIO_SUFFIXES, ".txt")]
        for path in paths:
            if path.name.endswith(".trans.txt"):
                for name, text in _read_transcripts(path):
                    if name in texts:
                        listing.problems.append((name, "duplicate id", f"again in {path}"))
                    texts.setdefault(name, text)
            elif path.suffix in AUDIO_SUFFIXES:
                if path.stem in audio:
                    detail = f"{path} skipped, {audio[path.stem]} kept"
                    listing.problems.append((path.stem, "duplicate id", detail))
                audio.setdefault(path.stem, path)
        for name in sorted(audio.keys() | texts.keys()):
            if name not in audio:
                listing.problems.append((name, "audio missing", ""))
            elif name not in texts and labelled:
                listing.problems.append((name, "transcript missing", str(audio[name])))
            else:
                listing.probes[name] = partial(probe_file, name, audio[name])
                listing.supervisions.append(
                    SupervisionSegment(
                        id=name,
                        recording_id=name,
                        start=0.0,
                        duration=0.0,
                        language="English",
                        speaker=audio[name].parent.parent.name,
                        text=texts.get(name, ""),
                    )
                )
        return listing


@dataclass(frozen=True)
class _Manifests:
    """A split in lhotse's manifests."""

    files: dict[str, Path]

    def __call__(self, *, labelled: bool = True) -> Listing:
        listing = Listing(files=sorted(self.files.values()))
        recordings: dict[str, Recording] = {}
        segments: list[SupervisionSegment]
        if "recordings" in self.files and ("supervisions" in self.files or not labelled):
            for recording in _items(self.files["recordings"], Recording.from_dict):
                if recording.id in recordings:
                    raise UserError(
                        f"{self.files['recordings']} has {recording.id} twice",
                        remedy="give each recording an id of its own",
                    )
                recordings[recording.id] = recording
            segments = []
            if "supervisions" in self.files:
                segments = _items(self.files["supervisions"], SupervisionSegment.from_dict)
        elif "cuts" in self.files:
            segments = []
            for cut in read_items(self.files["cuts"]):
                segments += _segments_of(cut, recordings, listing, labelled=labelled)
        else:
            missing = ({"recordings", "supervisions"} - self.files.keys()).pop()
            raise UserError(
                f"{next(iter(self.files.values()))} has no manifest of {missing} beside it"
            )
        if not labelled:
            described = {segment.recording_id for segment in segments}
            segments += [_whole(name) for name in recordings if name not in described]
        seen: set[str] = set()
        for segment in segments:
            if segment.id in seen:
                listing.problems.append((segment.id, "duplicate id", "the first was kept"))
            elif segment.recording_id not in recordings:
                detail = f"no recording {segment.recording_id}"
                listing.problems.append((segment.id, "audio missing", detail))
            else:
                listing.supervisions.append(segment)
            seen.add(segment.id)
        used = {segment.recording_id for segment in listing.supervisions}
        for name, recording in recordings.items():
            if name in used:
                listing.probes[name] = partial(probe_recording, recording)
                listing.files += [
                    Path(source.source) for source in recording.sources if source.type == "file"
                ]
            elif not any(name == segment.recording_id for segment in segments):
                listing.problems.append((name, "transcript missing", "recording without any"))
        return listing


def _read_transcripts(path: Path) -> Sequence[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: {error}") from None
    pairs = [line.strip().partition(" ") for line in lines if line.strip()]
    return [(name, text.strip()) for name, _, text in pairs]


def _items(path: Path, build: Callable[[dict[str, Any]], Any]) -> list[Any]:
    try:
        return [build(item) for item in read_items(path)]
    except (TypeError, KeyError) as error:
        raise UserError(f"{path} is not a lhotse manifest of its kind: {error!r}") from None


def _segments_of(
    cut: dict[str, Any], recordings: dict[str, Recording], listing: Listing, *, labelled: bool
) -> list[SupervisionSegment]:
    """Supervisions of a cut, in the time of its recording."""
    if cut.get("type") != "MonoCut" or "recording" not in cut:
        listing.problems.append((cut["id"], "not a MonoCut with a recording", ""))
        return []
    recording = Recording.from_dict(cut["recording"])
    recordings.setdefault(recording.id, recording)
    supervisions = [SupervisionSegment.from_dict(item) for item in cut.get("supervisions", [])]
    if not supervisions and not labelled:
        segment = _whole(recording.id)
        return [fastcopy(segment, id=cut["id"], start=cut["start"], duration=cut["duration"])]
    if not supervisions:
        listing.problems.append((cut["id"], "transcript missing", ""))
    return [supervision.with_offset(cut["start"]) for supervision in supervisions]


def _whole(name: str) -> SupervisionSegment:
    """All of a recording, without a transcript."""
    return SupervisionSegment(id=name, recording_id=name, start=0.0, duration=0.0, text="")


def _has_audio(folder: Path) -> bool:
    return any(path.suffix in AUDIO_SUFFIXES for path in folder.rglob("*"))
