"""Utterances that several splits of a corpus have."""

from __future__ import annotations

import filecmp
from dataclasses import dataclass

from lhotse import SupervisionSegment
from lhotse.utils import fastcopy

from mvqkd.data.prepare.listing import Listing
from mvqkd.errors import UserError


@dataclass(frozen=True, slots=True)
class _Owner:
    """Who has an id; small, for there is one for each utterance of a corpus."""

    split: str
    purpose: str
    audio: str | None
    place: tuple[float, float, int]
    """Start, duration and channel."""
    words: int
    """Hash of the transcript; 0 when it is empty."""

    def is_other_utterance(self, other: _Owner) -> bool:
        """Whether audio and transcripts are both different. With one of them it may be the same
        utterance, stored or spelled in another way."""
        if not (self.words and other.words) or self.words == other.words:
            return False
        if self.audio is None or other.audio is None or self.place != other.place:
            return self.place != other.place
        try:
            return not filecmp.cmp(self.audio, other.audio, shallow=False)
        except OSError:
            return False


class Owners:
    """Which split has an id first. Ids are of one utterance each, over all splits."""

    def __init__(self) -> None:
        self._first: dict[str, _Owner] = {}

    def settle(self, split: str, purpose: str, listing: Listing) -> None:
        """Take a split's utterances in, and out of the listing those that an earlier split has.

        Another utterance of an id that an earlier split has is renamed `<split>-<id>`.

        Args:
            split: its name.
            purpose: what it is for.
            listing: its utterances.

        Raises:
            UserError: a split for another purpose has some of them.
        """
        kept: list[SupervisionSegment] = []
        shared: list[tuple[_Owner, str]] = []
        for segment in listing.supervisions:
            mine = _owner(segment, listing, split, purpose)
            first = self._first.setdefault(segment.id, mine)
            if first is not mine and first.is_other_utterance(mine):
                name = f"{split}-{segment.id}"
                kind = "named with its split, of which another one has the name"
                listing.changes.append((name, kind, first.split))
                segment = fastcopy(segment, id=name)
                first = self._first.setdefault(name, mine)
            if first is mine:
                kept.append(segment)
            elif first.purpose == purpose:
                detail = f"also in {first.split}, where it is kept"
                listing.problems.append((segment.id, "duplicate id", detail))
            else:
                shared.append((first, segment.id))
        if shared:
            first, example = shared[0]
            raise UserError(
                f"{len(shared)} utterances of {split} are in other splits too: {example} is in "
                f"{first.split}, which is for {first.purpose}, while {split} is for {purpose}",
                remedy="name splits without common utterances for the roles; utterances of other "
                "audio need ids of their own",
            )
        listing.supervisions = kept


def _owner(segment: SupervisionSegment, listing: Listing, split: str, purpose: str) -> _Owner:
    audio = listing.audio.get(segment.recording_id)
    # Neither case nor punctuation makes another utterance.
    words = "".join(filter(str.isalnum, (segment.text or "").casefold()))
    channel = segment.channel if isinstance(segment.channel, int) else segment.channel[0]
    return _Owner(
        split,
        purpose,
        None if audio is None else str(audio),
        (segment.start, segment.duration, channel),
        hash(words) if words else 0,
    )
