"""Audio files: what they say they hold, checked against what they decode to."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import soundfile
from lhotse import AudioSource, Recording
from lhotse.utils import fastcopy

from mvqkd.data.prepare.mp3 import count_frames
from mvqkd.features.reading import LEAST_TOLERANCE, refuse_short_audio

TOLERANCE = 0.025
"""Seconds by which manifests may be wrong: times that were rounded, counts of other decoders."""

_BLOCK = 1 << 20
# libsndfile silently shortens WAV and Ogg files that were truncated; its log says so.
_UNFINISHED = "lacks an end-of-stream bit"
_SHORT_WAV = re.compile(r"^data : (\d+) \(should be", re.MULTILINE)
# What programs that write to a pipe put in place of the bytes that follow: 0, or about the most
# that 31 or 32 bits hold (sox 0x7ffff000, arecord 0x80000000, ffmpeg 0xffffffff).
_PLACEHOLDERS = (range(1), range(0x7FFF0000, 0x80000100), range(0xFFFF0000, 0x100000000))
_MOST_PADDING = 4
"""Frames of silence that encoders and decoders of MP3 may add and leave out."""
_UNKNOWN = 1 << 62
"""Samples that libsndfile promises where a FLAC was written to a pipe."""
_CHANGE_LENGTHS = ("Resample", "Speed")
"""Transforms of lhotse after which the length of a recording is known here."""


class Fault(Exception):
    """An utterance or its audio cannot be used.

    Args:
        kind: what is counted in reports.
        detail: what is particular to this utterance.
    """

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(kind, detail)
        self.kind = kind
        self.detail = detail


def probe_file(recording_id: str, path: Path) -> Recording:
    """Decode a whole audio file and describe it for lhotse.

    Raises:
        Fault: it is missing, unreadable, empty, truncated, or has values that are not finite.
    """
    if not path.is_file():
        raise Fault("audio missing", str(path))
    if path.stat().st_size == 0:
        raise Fault("audio empty", str(path))
    try:
        with soundfile.SoundFile(path) as file:
            promised, decoded = file.frames, 0
            if promised >= _UNKNOWN:
                raise Fault("length unknown", f"{path}: its header has none; convert it")
            log = file.extra_info
            block = np.empty((_BLOCK, file.channels), dtype=np.float32)
            while num_read := len(file.read(out=block)):
                decoded += num_read
                if not np.isfinite(block[:num_read]).all():
                    raise Fault("audio not finite", str(path))
            rate, channels, form = file.samplerate, file.channels, file.format
    except soundfile.LibsndfileError as error:
        kind = "audio truncated" if "lost sync" in str(error) else "audio unreadable"
        raise Fault(kind, f"{path}: {error}") from error
    frames = count_frames(path) if form == "MP3" else None
    if frames is not None and decoded < frames.samples - _MOST_PADDING * frames.per_frame:
        detail = f"{path}: decoders find {decoded} of its {frames.samples} samples; convert it"
        raise Fault("length unknown", detail)
    # Without a header, what an MP3 promises is an estimate.
    estimated = frames is not None and not frames.says_length
    if (decoded < promised and not estimated) or _is_truncated(log):
        raise Fault("audio truncated", f"{path}: {decoded} samples of {promised} promised")
    if decoded == 0:
        raise Fault("audio empty", str(path))
    return Recording(
        id=recording_id,
        sources=[AudioSource(type="file", channels=list(range(channels)), source=str(path))],
        sampling_rate=rate,
        num_samples=decoded,
        duration=decoded / rate,
        channel_ids=list(range(channels)),
    )


def probe_recording(recording: Recording) -> Recording:
    """A recording of a manifest as long as its audio is.

    Raises:
        Fault: the audio is missing, unreadable, or not as the manifest says, by more than
            `TOLERANCE`.
    """
    transforms = [t if isinstance(t, dict) else t.to_dict() for t in recording.transforms or []]
    known = all(transform.get("name") in _CHANGE_LENGTHS for transform in transforms)
    if not known or any(source.type != "file" for source in recording.sources):
        return _load(recording)
    found = _probe_files(recording)
    for transform in transforms:
        values = transform["kwargs"]
        if transform["name"] == "Speed":
            found = found.perturb_speed(values["factor"])
        else:
            _check_rate(found.sampling_rate, values["source_sampling_rate"])
            found = found.resample(values["target_sampling_rate"])
    _check_rate(found.sampling_rate, recording.sampling_rate)
    if found.num_samples == recording.num_samples:
        return recording
    if abs(found.num_samples - recording.num_samples) > TOLERANCE * found.sampling_rate:
        detail = f"{found.num_samples} samples, not {recording.num_samples}"
        raise Fault("audio not as in the manifest", detail)
    return fastcopy(recording, num_samples=found.num_samples, duration=found.duration)


def _probe_files(recording: Recording) -> Recording:
    """As long as the longest of its files: lhotse fills the others up."""
    files = [probe_file(recording.id, Path(source.source)) for source in recording.sources]
    longest = max(files, key=lambda file: file.num_samples)
    for file in files:
        _check_rate(file.sampling_rate, longest.sampling_rate)
        if longest.num_samples - file.num_samples > LEAST_TOLERANCE * longest.sampling_rate:
            detail = f"one of {longest.num_samples} samples, one of {file.num_samples}"
            raise Fault("files of one recording differ in length", detail)
    return longest


def _check_rate(found: int, promised: int) -> None:
    if found != promised:
        raise Fault("audio not as in the manifest", f"{found} Hz, not {promised}")


def _load(recording: Recording) -> Recording:
    """Decode what is no file, or is changed in ways that only lhotse knows."""
    refuse_short_audio()
    try:
        samples = recording.load_audio().shape[1]
    except Exception as error:  # lhotse's backends raise anything
        raise Fault("audio unreadable", str(error).strip().split("\n")[0]) from error
    if samples != recording.num_samples:
        detail = f"{samples} samples, not {recording.num_samples}"
        raise Fault("audio not as in the manifest", detail)
    return recording


def _is_truncated(log: str) -> bool:
    """What libsndfile's log says of a file."""
    short = _SHORT_WAV.search(log)
    promised = short and not any(int(short[1]) in sizes for sizes in _PLACEHOLDERS)
    return bool(promised) or _UNFINISHED in log
