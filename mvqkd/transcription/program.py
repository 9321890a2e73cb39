"""Transcription as a program: files, or what arrives on a microphone or a pipe."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mvqkd.errors import UserError
from mvqkd.transcription.audio import STDIN, AudioFile, find_audio, keep_stdin
from mvqkd.transcription.files import transcribe_files
from mvqkd.transcription.interface import FileRecognizer
from mvqkd.transcription.live import EndpointRule
from mvqkd.transcription.outputs import Outputs
from mvqkd.transcription.pauses import PAUSES, PauseRule
from mvqkd.transcription.screen import transcribe_live
from mvqkd.transcription.sources import in_real_time, microphone, pipe


@dataclass
class Settings:
    """How to transcribe."""

    formats: Sequence[str] = ("text",)
    """Names of `mvqkd.transcription.formats.FORMATS`."""
    folder: Path | None = None
    """Of transcripts; None: standard output."""
    rule: EndpointRule = field(default_factory=EndpointRule)
    """Where segments end."""
    pauses: PauseRule | None = PAUSES
    """What separates utterances."""
    batch_seconds: float = 240.0
    """Of audio decoded at once."""
    tail_padding: int = 0
    """Frames of 10 ms of silence at the end, for streaming models."""


def transcribe(recognizer: FileRecognizer, names: Sequence[str], settings: Settings) -> bool:
    """Transcribe files, folders, and standard input (`-`), with a progress bar, and tell the
    real-time factor.

    Returns:
        Whether all have been transcribed; what was wrong with the others is printed.

    Raises:
        UserError: nothing can be transcribed: see `find_audio` and `Outputs`.
    """
    with tempfile.TemporaryDirectory(prefix="mvqkd-") as temporary:
        files: list[AudioFile] = []
        for name in names:
            is_stdin = name == STDIN
            files += (
                [keep_stdin(sys.stdin.buffer, Path(temporary))] if is_stdin else find_audio([name])
            )
        outputs = Outputs(files, settings.formats, settings.folder, sys.stdout)
        return _transcribe(recognizer, files, outputs, settings)


def _transcribe(
    recognizer: FileRecognizer, files: Sequence[AudioFile], outputs: Outputs, settings: Settings
) -> bool:
    begin, failed, seconds = time.perf_counter(), 0, 0.0
    known = [file.seconds() for file in files]
    total = None if None in known else sum(length or 0.0 for length in known)
    layout = "{percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}{postfix}]"
    with tqdm(
        total=total,
        unit="s",
        disable=None,
        dynamic_ncols=True,
        bar_format=layout if total else "{n:.0f} s [{elapsed}{postfix}]",
    ) as bar:

        def heard(part: float) -> None:
            factor = (time.perf_counter() - begin) / max(bar.n + part, 1e-9)
            bar.set_postfix_str(f"RTF {factor:.4f}", refresh=False)
            bar.update(part)

        for file, result in transcribe_files(
            recognizer,
            files,
            rule=settings.rule,
            pauses=settings.pauses,
            batch_seconds=settings.batch_seconds,
            tail_padding=settings.tail_padding,
            heard=heard,
        ):
            if isinstance(result, UserError):
                failed += 1
                with bar.external_write_mode(file=sys.stderr):
                    print(f"error: {result}", file=sys.stderr)
                continue
            seconds += result.duration
            with bar.external_write_mode(file=sys.stdout):
                outputs.write(file, result)
    spent = time.perf_counter() - begin
    rest = f", {failed} not transcribed" if failed else ""
    factor = f": real-time factor {spent / seconds:.4f}" if seconds else ""
    print(
        f"{len(files)} files{rest}, {seconds:.1f} s of audio in {spent:.1f} s{factor}",
        file=sys.stderr,
    )
    return not failed


def transcribe_stream(
    recognizer: FileRecognizer,
    name: str,
    settings: Settings,
    *,
    from_microphone: bool = False,
    pcm_rate: int | None = None,
) -> None:
    """Print words as they come. A file is played in real time.

    Args:
        recognizer: of a streaming model.
        name: a file, `-`, or the microphone's name or number (`""`: the default).
        settings: transcripts are written to their folder at the end, if there is one.
        from_microphone: `name` is a microphone's.
        pcm_rate: Hz of standard input if it is 16-bit samples without a header.

    Raises:
        UserError: the model does not stream, or the source cannot be read.
    """
    if not recognizer.streams:
        raise UserError(
            "the model attends to whole utterances: it cannot recognize while audio arrives",
            remedy="take a streaming student, or transcribe files",
        )
    if from_microphone:
        file = AudioFile(Path("microphone"), "microphone", Path("microphone"))
        blocks = microphone(name or None)
        print("speak; Ctrl-C ends", file=sys.stderr)
    elif name == STDIN:
        file = AudioFile(Path(STDIN), STDIN, Path("stdin"))
        blocks = pipe(sys.stdin.buffer, pcm_rate)
    else:
        file, *others = find_audio([name])
        if others:
            raise UserError(f"{name} has several files", remedy="stream one file")
        blocks = in_real_time(file.blocks())
    formats = settings.formats if settings.folder else ("text",)
    outputs = Outputs([file], formats, settings.folder, sys.stdout)
    transcript, latencies = transcribe_live(
        recognizer,
        blocks,
        sys.stdout,
        name=file.name,
        rule=settings.rule,
        pauses=settings.pauses,
        tail_padding=settings.tail_padding,
    )
    if settings.folder:
        outputs.write(file, transcript)
    if latencies:
        median, high = np.percentile(latencies, [50, 95])
        print(
            f"{transcript.duration:.1f} s of audio, {len(latencies)} words; from the end of a word "
            f"to its line: median {median:.2f} s, 95 % within {high:.2f} s",
            file=sys.stderr,
        )
