"""Where transcripts go: files of a folder, or standard output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from mvqkd.errors import UserError
from mvqkd.storage.files import write_text
from mvqkd.transcription.audio import AudioFile
from mvqkd.transcription.formats import FORMATS, SUFFIXES
from mvqkd.transcription.transcript import Transcript


class Outputs:
    """Writes transcripts, each when it is there.

    Args:
        files: all inputs.
        formats: names of `FORMATS`.
        folder: for files with the names of the inputs; None: everything goes to `out`.
        out: text has the name of the file before it where there are several, JSON is a line for
            each file.

    Raises:
        UserError: an unknown format; several formats, or subtitles of several files, without a
            folder; two inputs whose transcripts would have the same name.
    """

    def __init__(
        self, files: Sequence[AudioFile], formats: Sequence[str], folder: Path | None, out: TextIO
    ) -> None:
        for name in formats:
            if name not in FORMATS:
                raise UserError(f"there is no format {name}", remedy=f"one of {', '.join(FORMATS)}")
        subtitles = {"srt", "vtt"} & set(formats)
        if folder is None and (len(formats) != 1 or (subtitles and len(files) > 1)):
            raise UserError(
                "several formats, or subtitles of several files, need a folder to be written to",
                remedy="name one",
            )
        self._formats = formats
        self._folder = folder
        self._out = out
        self._several = len(files) > 1
        self._names = _names(files) if folder else {}

    def write(self, file: AudioFile, transcript: Transcript) -> None:
        """One transcript."""
        if self._folder is None:
            text = FORMATS[self._formats[0]](transcript)
            if self._formats[0] == "text" and self._several:
                text = f"{file.name}\t{transcript.text}\n"
            self._out.write(text)
            self._out.flush()
            return
        for name in self._formats:
            path = self._folder / f"{self._names[file]}{SUFFIXES[name]}"
            write_text(path, FORMATS[name](transcript))


def _names(files: Sequence[AudioFile]) -> dict[AudioFile, str]:
    """Paths of transcripts, without the suffix of the format: `a` of `a.wav`; `a.wav` and `a.mp3`
    where both are inputs."""
    counts = Counter(file.relative for file in files)
    names = {
        file: str(
            file.relative if counts[file.relative] == 1 else file.relative.with_name(file.path.name)
        )
        for file in files
    }
    twice = [name for name, count in Counter(names.values()).items() if count > 1]
    if twice:
        same = [file.name for file in files if names[file] == twice[0]]
        raise UserError(
            f"the transcripts of {' and '.join(same)} would have the same name",
            remedy="name a folder that has both, or transcribe one after the other",
        )
    return names
