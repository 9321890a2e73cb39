"""What a corpus in LibriSpeech's layout holds: hours, speakers, words."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import soundfile

from mvqkd.errors import UserError


@dataclass
class SplitStatistics:
    """Counts of one split."""

    speakers: set[str] = field(default_factory=set)
    texts: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def words(self) -> Counter[str]:
        """Occurrences of each word."""
        return Counter(word for text in self.texts for word in text.split())


def read_split(directory: str | Path) -> SplitStatistics:
    """Read the transcripts and the durations of a split, such as `<corpus>/train-mini`.

    Raises:
        UserError: there is no transcript, or a recording is missing.
    """
    split = SplitStatistics()
    for path in sorted(Path(directory).glob("*/*/*.trans.txt")):
        for line in path.read_text(encoding="utf-8").splitlines():
            utterance, _, text = line.partition(" ")
            audio = path.with_name(f"{utterance}.flac")
            if not audio.is_file():
                raise UserError(f"{audio} is missing", remedy="make the corpus again")
            split.speakers.add(utterance.split("-")[0])
            split.texts.append(text)
            split.seconds += soundfile.info(audio).duration
    if not split.texts:
        raise UserError(f"{directory} holds no transcripts", remedy="make the corpus again")
    return split


def summary(splits: dict[str, SplitStatistics], train: str) -> str:
    """Return a table of the splits; words are out of vocabulary when the split `train` lacks
    them."""
    vocabulary = splits[train].words
    lines = [
        f"{'split':<12}{'minutes':>8}{'speakers':>9}{'utterances':>11}{'words':>7}"
        f"{'vocabulary':>11}{'OOV %':>7}{'in train':>9}"
    ]
    for name, split in splits.items():
        words = split.words
        unknown = sum(count for word, count in words.items() if word not in vocabulary)
        lines.append(
            f"{name:<12}{split.seconds / 60:8.1f}{len(split.speakers):9}{len(split.texts):11}"
            f"{words.total():7}{len(words):11}{100 * unknown / words.total():7.2f}"
            f"{min(vocabulary[word] for word in words):8}x"
        )
    lines.append("in train: how often the split's rarest word occurs in training")
    return "\n".join(lines)
