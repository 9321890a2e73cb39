"""Splits that are trees of folders: audio, and transcripts in `*.trans.txt`, LibriSpeech's layout
among them."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mvqkd.data.prepare.audio_files import probe_file
from mvqkd.data.prepare.folders import walk_files
from mvqkd.data.prepare.listing import AUDIO_SUFFIXES, Listing, whole
from mvqkd.data.prepare.names import canonical, fault_of_id, is_utf8, printable
from mvqkd.errors import UserError

_Place = tuple[Path, str]
"""A folder and a name in it, which is what identifies an utterance of a tree."""


def is_audio(path: Path) -> bool:
    """Whether its name says that it is audio which is read."""
    return path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith(".")


def is_split(folder: Path) -> bool:
    """Whether there is audio or a transcript file in a folder, at any depth."""
    return any(is_audio(path) or _is_transcript(path) for path in walk_files(folder))


@dataclass(frozen=True)
class Tree:
    """A split in LibriSpeech's layout, at any depth: the first folder names the speaker.

    A transcript belongs to the audio of its name in its own folder. A name that is nowhere else in
    the split finds audio in another folder, too. A name that several files have becomes an id with
    its folders: `<speaker>-<chapter>-<name>`.
    """

    folder: Path

    def __call__(self, *, labelled: bool = True) -> Listing:
        """See `SplitLister`."""
        listing = Listing()
        audio, texts = self._read(listing)
        self._pair_folders(listing, audio, texts)
        files = Counter(name for _, name in audio)
        # Names that are the only ones of their kind first: they keep their ids.
        taken: set[str] = set()
        for place in sorted(audio, key=lambda place: (files[place[1]] > 1, place[1], place[0])):
            path, text = audio[place], texts.pop(place, None)
            utterance = place[1] if files[place[1]] == 1 else self._full_name(place)
            fault = fault_of_id(utterance if is_utf8(str(path)) else str(path))
            if fault is not None:
                listing.problems.append((printable(utterance), fault, printable(str(path))))
            elif utterance in taken:
                listing.problems.append((utterance, "duplicate id", f"{path} skipped"))
            elif text is None and labelled:
                listing.problems.append((utterance, "transcript missing", str(path)))
            else:
                taken.add(utterance)
                speaker = path.relative_to(self.folder).parts[0]
                listing.probes[utterance] = partial(probe_file, utterance, path)
                listing.audio[utterance] = path
                listing.supervisions.append(
                    whole(
                        utterance,
                        utterance,
                        text or "",
                        language="English",
                        speaker=None if speaker == path.name else speaker,
                    )
                )
        listing.supervisions.sort(key=lambda segment: segment.id)
        for place in texts:  # what is left
            name = self._full_name(place) if place[1] in files else place[1]
            listing.problems.append((printable(name), "audio missing", ""))
        return listing

    def _read(self, listing: Listing) -> tuple[dict[_Place, Path], dict[_Place, str]]:
        """Audio files and transcripts by place; what is neither goes into the listing."""
        audio: dict[_Place, Path] = {}
        texts: dict[_Place, str] = {}

        def unused(path: Path, why: str) -> None:
            listing.unused.append((printable(str(path.relative_to(self.folder))), why))

        paths = sorted(walk_files(self.folder, unused))
        listing.files = [path for path in paths if is_audio(path) or path.suffix.lower() == ".txt"]
        for path in paths:
            if path.name.startswith("."):
                continue
            if _is_transcript(path):
                for name, text in read_transcripts(path):
                    place = path.parent, canonical(name)
                    if place in texts:
                        detail = f"again in {path}"
                        listing.problems.append((printable(name), "duplicate id", detail))
                    texts.setdefault(place, text)
            elif is_audio(path):
                place = path.parent, canonical(path.stem)
                if place in audio:
                    detail = printable(f"{path} skipped, {audio[place]} kept")
                    listing.problems.append((printable(path.stem), "duplicate id", detail))
                audio.setdefault(place, path)
            elif path.suffix.lower() == ".txt":
                unused(path, "transcripts are read from *.trans.txt")
            else:
                unused(path, f"neither a transcript nor {', '.join(AUDIO_SUFFIXES)}")
        return audio, texts

    def _pair_folders(
        self, listing: Listing, audio: dict[_Place, Path], texts: dict[_Place, str]
    ) -> None:
        """Move transcripts to audio in other folders, where the name is there once."""
        places: dict[str, list[_Place]] = defaultdict(list)
        for place in audio:
            places[place[1]].append(place)
        written = Counter(name for _, name in texts)
        for place in [place for place in texts if place not in audio]:
            found = places[place[1]]
            if len(found) == 1 and written[place[1]] == 1:
                texts[found[0]] = texts.pop(place)
                detail = printable(str(place[0].relative_to(self.folder)))
                kind = "transcript from another folder"
                listing.changes.append((printable(place[1]), kind, detail))

    def _full_name(self, place: _Place) -> str:
        folder, name = place
        return canonical("-".join([*folder.relative_to(self.folder).parts, name]))


def read_transcripts(path: Path) -> list[tuple[str, str]]:
    """Names and transcripts of a file of lines `<name> <transcript>`, spaces or tabs between.

    Raises:
        UserError: it is not UTF-8.
    """
    try:
        content = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{printable(str(path))} is not UTF-8: {error}", remedy="convert it to UTF-8"
        ) from None
    # Not splitlines: other separators than \n are part of a transcript.
    fields = [line.split(maxsplit=1) for line in content.split("\n")]
    return [(name, " ".join(text).strip()) for name, *text in filter(None, fields)]


def _is_transcript(path: Path) -> bool:
    return path.name.lower().endswith(".trans.txt")
