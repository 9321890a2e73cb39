"""The files `times-*.jsonl`: the encoder frame that emitted each token of an utterance."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mvqkd.errors import UserError
from mvqkd.storage.files import write_text
from mvqkd.storage.jsonl import read_built

_SPACE = "▁"  # sentencepiece's, before the first token of a word


class TimedTokens(NamedTuple):
    """Tokens, or words, of an utterance in their order."""

    units: list[str]
    frames: list[int]
    """Frame (25 Hz, from the beginning of the utterance) of each."""
    num_frames: int | None = None
    """Of the utterance, where that is known."""

    def words(self) -> TimedTokens:
        """The words of tokens, each at the frame of its last token."""
        words: list[str] = []
        frames: list[int] = []
        for unit, frame in zip(self.units, self.frames, strict=True):
            if unit.startswith(_SPACE) or not words:
                words.append("")
                frames.append(frame)
            words[-1] += unit.removeprefix(_SPACE)
            frames[-1] = frame
        spoken = [(word, frame) for word, frame in zip(words, frames, strict=True) if word]
        units, at = [word for word, _ in spoken], [frame for _, frame in spoken]
        return TimedTokens(units, at, self.num_frames)


def write_times(path: Path, utterances: Mapping[str, TimedTokens]) -> None:
    """A line for each utterance, sorted by id: `{"id": ..., "tokens": [...], "frames": [...]}`, and
    `num_frames` where it is known."""
    lines = []
    for name, found in sorted(utterances.items()):
        item = {"id": name, "tokens": found.units, "frames": found.frames}
        known = {} if found.num_frames is None else {"num_frames": found.num_frames}
        lines.append(json.dumps(item | known, ensure_ascii=False) + "\n")
    write_text(path, "".join(lines))


def read_times(path: Path) -> dict[str, TimedTokens]:
    """What `write_times` wrote, by utterance.

    Raises:
        UserError: the file is missing or damaged.
    """
    if not path.is_file():
        raise UserError(
            f"{path} is missing: the frames of the tokens were not written by earlier versions",
            remedy="decode again what is there",
            step="decoding",
        )

    def build(item: dict[str, Any]) -> tuple[str, TimedTokens]:
        length = item.get("num_frames")
        known = None if length is None else int(length)
        found = TimedTokens(list(item["tokens"]), list(map(int, item["frames"])), known)
        if len(found.units) != len(found.frames):
            raise ValueError("as many frames as tokens are needed")
        return str(item["id"]), found

    return dict(read_built(path, build))
