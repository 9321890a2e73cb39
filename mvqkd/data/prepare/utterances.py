"""An utterance of a split, checked against its audio."""

from __future__ import annotations

from dataclasses import dataclass

from lhotse import Recording, SupervisionSegment
from lhotse.utils import fastcopy

from mvqkd.data.prepare.audio_files import TOLERANCE, Fault
from mvqkd.data.prepare.listing import WHOLE
from mvqkd.data.prepare.normalization import normalize
from mvqkd.data.prepare.preparation_report import PreparationReport

_RESERVED = ("<blk>", "<sos/eos>", "▁", "\0")
"""What transcripts cannot hold: tokens that are no text, sentencepiece's mark of a space, and the
character at which it stops."""


@dataclass(frozen=True)
class Rules:
    """What is asked of the utterances of a split."""

    min_seconds: float
    max_seconds: float
    labelled: bool
    """Whether they need a transcript."""
    normalization: str = "identity"
    """Of the transcripts: a key of `NORMALIZATIONS`."""


def complete(
    segment: SupervisionSegment,
    found: Recording | Fault,
    rules: Rules,
    report: PreparationReport,
) -> SupervisionSegment:
    """The utterance as it is used: on one channel, within its recording, with its transcript
    normalized.

    Args:
        segment: as it was listed.
        found: its recording.
        rules: of the split.
        report: is told what changes.

    Raises:
        Fault: it cannot be used.
    """
    if isinstance(found, Fault):
        raise found
    text = normalize(segment.text or "", rules.normalization)
    if rules.labelled and not text:
        raise Fault("transcript empty")
    if reserved := [token for token in _RESERVED if token in text]:
        raise Fault("reserved characters in the transcript", repr(reserved[0]))
    channel = _channel(segment, found, report)
    start, duration = _times(segment, found, report)
    if duration < rules.min_seconds:
        raise Fault("too short", f"{duration:.3f} s")
    if duration > rules.max_seconds:
        raise Fault("too long", f"{duration:.3f} s")
    if text != " ".join((segment.text or "").split()):
        report.change(segment.id, f"transcript normalized, {rules.normalization}")
    return fastcopy(segment, channel=channel, start=start, duration=duration, text=text)


def _channel(segment: SupervisionSegment, recording: Recording, report: PreparationReport) -> int:
    wanted = segment.channel if isinstance(segment.channel, int) else segment.channel[0]
    channels = recording.channel_ids
    if len(channels) == 1:
        if wanted != channels[0]:
            detail = f"channel {channels[0]}, not {wanted}"
            report.change(segment.id, "the only channel is used", detail)
        return channels[0]
    if wanted not in channels:
        raise Fault("no such channel", f"{wanted} of {channels}")
    detail = f"channel {wanted} of {channels}"
    report.change(segment.id, "one of several channels is used", detail)
    return wanted


def _times(
    segment: SupervisionSegment, recording: Recording, report: PreparationReport
) -> tuple[float, float]:
    """Start and duration in seconds, within the recording."""
    start, length = segment.start, recording.duration
    duration = length if segment.duration == WHOLE else segment.duration
    sample = 0.5 / recording.sampling_rate
    if start >= 0 and start + duration <= length + sample:
        return start, duration
    end = min(start + duration, length)
    trimmed = round(max(start, 0.0), 8), round(end - max(start, 0.0), 8)
    detail = f"{start} s + {duration} s in a recording of {length} s"
    if start < -TOLERANCE or start + duration > length + TOLERANCE or trimmed[1] <= 0:
        raise Fault("beyond the end of its recording", detail)
    report.change(segment.id, "trimmed to its recording", detail)
    return trimmed
