"""Audio files: what they say they hold, checked against what they decode to."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import soundfile
from lhotse import AudioSource, Recording

from mvqkd.features.reading import refuse_short_audio

_BLOCK = 1 << 20
# libsndfile silently shortens WAV and Ogg files that were truncated; its log says so. 0 and
# 0xFFFFFFFF mean an unknown length in WAV files that were written to a pipe.
_TRUNCATED = re.compile(
    r"^data : (?!0 |4294967295 )\d+ \(should be|lacks an end-of-stream bit", re.MULTILINE
)


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
            log = file.extra_info
            block = np.empty((_BLOCK, file.channels), dtype=np.float32)
            while num_read := len(file.read(out=block)):
                decoded += num_read
                if not np.isfinite(block[:num_read]).all():
                    raise Fault("audio not finite", str(path))
            rate, channels = file.samplerate, file.channels
    except soundfile.LibsndfileError as error:
        kind = "audio truncated" if "lost sync" in str(error) else "audio unreadable"
        raise Fault(kind, f"{path}: {error}") from error
    if decoded < promised or _TRUNCATED.search(log):
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
    """Check a recording of a manifest against its audio.

    Raises:
        Fault: the audio is missing, unreadable, or not as long as the manifest says.
    """
    source = recording.sources[0] if len(recording.sources) == 1 else None
    if source is not None and source.type == "file" and not recording.transforms:
        found = probe_file(recording.id, Path(source.source))
        samples, rate = found.num_samples, found.sampling_rate
        if rate != recording.sampling_rate:
            raise Fault("audio not as in the manifest", f"{rate} Hz, not {recording.sampling_rate}")
    else:
        refuse_short_audio()
        try:
            samples = recording.load_audio().shape[1]
        except Exception as error:  # lhotse's backends raise anything
            raise Fault("audio unreadable", str(error).strip().split("\n")[0]) from error
    if samples != recording.num_samples:
        raise Fault(
            "audio not as in the manifest", f"{samples} samples, not {recording.num_samples}"
        )
    return recording
