"""Audio of any format, rate and length as 16 kHz samples, block by block."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import soundfile
from numpy.typing import NDArray

from mvqkd.data.prepare.audio_files import Fault, probe_file
from mvqkd.errors import UserError
from mvqkd.features.online_resample import OnlineResample
from mvqkd.geometry import SAMPLE_RATE

STDIN = "-"
"""The name of standard input."""
SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        *("3gp", "aac", "ac3", "aif", "aiff", "amr", "ape", "au", "avi", "caf", "flac", "m4a"),
        *("m4b", "mka", "mkv", "mov", "mp2", "mp3", "mp4", "mpeg", "mpg", "oga", "ogg", "opus"),
        *("sph", "ts", "w64", "wav", "webm", "wma", "wmv", "wv"),
    )
)
"""Of files that are taken from folders; a file that is named may have any."""
_UNKNOWN = 1 << 62


@dataclass(frozen=True)
class AudioFile:
    """One input."""

    path: Path
    name: str
    """What people call it: the path as they gave it."""
    relative: Path
    """Where its transcript goes in a folder of transcripts, without a suffix."""

    def seconds(self) -> float | None:
        """Of audio, as its header says; None where that is not known."""
        with suppress(soundfile.LibsndfileError):
            info = soundfile.info(self.path)
            if 0 < info.frames < _UNKNOWN and info.samplerate:
                return info.frames / info.samplerate
        return None

    def blocks(self, seconds: float = 10.0) -> Iterator[NDArray[np.float32]]:
        """Samples (S,) at 16 kHz, channels averaged, in blocks of about so many seconds.

        Files that libsndfile reads are decoded once before, to know that they are whole: a part of
        the speech would pass for all of it. Other files are given to ffmpeg.

        Raises:
            UserError: it is missing, empty, damaged, or of a format that cannot be read here.
        """
        try:
            probe_file(self.path.stem, self.path)
        except Fault as fault:
            if fault.kind != "audio unreadable":
                raise self._refused(f"{fault.kind} ({fault.detail})") from None
            yield from self._by_ffmpeg(seconds, fault.detail)
            return
        with soundfile.SoundFile(self.path) as file:
            resample = OnlineResample(file.samplerate)
            size = max(1, round(seconds * file.samplerate))
            for block in file.blocks(size, dtype="float32", always_2d=True):
                yield resample.accept(block.mean(axis=1))
            yield resample.finish()

    def _by_ffmpeg(self, seconds: float, reason: str) -> Iterator[NDArray[np.float32]]:
        program = shutil.which("ffmpeg")
        if program is None:
            raise self._refused(
                f"libsndfile cannot read it ({reason}), and there is no ffmpeg",
                "install ffmpeg, or convert it to WAV or FLAC",
            )
        # `file:`, since a name may look like an option or an address.
        command = [program, "-nostdin", "-v", "error", "-xerror", "-i", f"file:{self.path}"]
        command += ["-vn", "-f", "f32le", "-ac", "1", "-ar", str(SAMPLE_RATE), "-"]
        size, empty = 4 * round(seconds * SAMPLE_RATE), True
        with (
            tempfile.TemporaryFile() as errors,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as process,
        ):
            assert process.stdout is not None
            try:
                while data := process.stdout.read(size):
                    empty = False
                    yield np.frombuffer(data[: len(data) // 4 * 4], dtype="<f4").astype(np.float32)
                process.wait()
            finally:
                process.kill()  # where the reader has stopped; one that has ended does not mind
            errors.seek(0)
            words = " ".join(errors.read().decode(errors="replace").split())
        if process.returncode or words or empty:
            raise self._refused(f"ffmpeg cannot read it: {words[-300:] or 'there is no audio'}")

    def _refused(self, reason: str, remedy: str = "name whole audio files") -> UserError:
        return UserError(f"{self.name} cannot be transcribed: {reason}", remedy=remedy)


def find_audio(names: Iterable[str | Path]) -> list[AudioFile]:
    """The files of paths and of folders, in order; those of a folder by name, with a suffix of
    audio, hidden ones left out.

    Raises:
        UserError: a path is missing, or a folder has no audio.
    """
    found: list[AudioFile] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            inside = [
                file
                for file in sorted(path.rglob("*"))
                if file.suffix.lower() in SUFFIXES
                and file.is_file()
                and not any(part.startswith(".") for part in file.relative_to(path).parts)
            ]
            if not inside:
                raise UserError(
                    f"{path} has no audio files", remedy="name files, or a folder that has some"
                )
            found += [
                AudioFile(file, str(file), file.relative_to(path).with_suffix(""))
                for file in inside
            ]
        elif path.exists():
            found.append(AudioFile(path, str(path), Path(path.stem)))
        else:
            raise UserError(f"{path} is missing", remedy="name audio files or folders of them")
    return found


def keep_stdin(stream: IO[bytes], folder: Path) -> AudioFile:
    """Audio of standard input, in a file: most formats cannot be read from a pipe.

    Args:
        stream: read to its end.
        folder: where the file goes, for the time that it is needed.
    """
    path = folder / "stdin"
    with open(path, "wb") as file:
        shutil.copyfileobj(stream, file)
    return AudioFile(path, STDIN, Path("stdin"))
