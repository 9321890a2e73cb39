"""The synthetic corpus on disk: planned from a seed, spoken in parallel, resumed where it was
killed.

Layout, as LibriSpeech's:

    <out>/SPEAKERS.TXT
    <out>/train-mini/1001/100101/1001-100101-0000.flac ...     16 kHz, 16 bits, mono
    <out>/train-mini/1001/100101/1001-100101.trans.txt         written when the chapter is whole
    <out>/corpus.json                                          what it was made from

Spelled letters and digits have splits of their own names, train-spelling and so on.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
from tqdm import tqdm

from mvqkd.data.synthetic import acoustics
from mvqkd.data.synthetic.espeak import Espeak, Line
from mvqkd.data.synthetic.sentences import StoryWriter, transcript
from mvqkd.data.synthetic.spelling import Speller
from mvqkd.data.synthetic.voices import Speaker, babble_voices, make_speakers
from mvqkd.errors import UserError
from mvqkd.geometry import SAMPLE_RATE
from mvqkd.storage.files import atomic_path, read_json, write_json, write_text

SPLITS = ("train", "dev", "test")
CHAPTER_LENGTH = 20  # utterances
Text = Literal["stories", "spelling"]
"""What is read: sentences about people, or spelled letters and digits."""
# Raise when the same configuration would give other files, so that old corpora are not extended.
_FORMAT = 1


@dataclass(frozen=True)
class CorpusConfig:
    """What a corpus is made from; the same configuration gives the same bytes.

    `<split>_utterances` are utterances of each speaker.
    """

    seed: int = 42
    train_speakers: int = 40
    train_utterances: int = 24
    dev_speakers: int = 3
    dev_utterances: int = 32
    test_speakers: int = 4
    test_utterances: int = 36
    text: Text = "stories"

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name not in ("seed", "text") and value < 1:
                raise UserError(f"{name} is {value}", remedy="ask for 1 or more")


@dataclass(frozen=True)
class Chapter:
    """A story read by one speaker: the unit of work."""

    split: str
    speaker: Speaker
    id: int
    sentences: tuple[str, ...]
    text: Text = "stories"

    @property
    def name(self) -> str:
        """`<speaker>-<chapter>`."""
        return f"{self.speaker.id}-{self.id}"

    @property
    def directory(self) -> Path:
        """Path of the chapter under the corpus."""
        return Path(split_name(self.split, self.text), str(self.speaker.id), str(self.id))

    def utterances(self) -> Iterator[tuple[str, str]]:
        """Yield the id and the sentence of each utterance."""
        for index, sentence in enumerate(self.sentences):
            yield f"{self.name}-{index:04d}", sentence


def split_name(split: str, text: Text = "stories") -> str:
    """Name of a split's folder: `train-mini` ..."""
    return f"{split}-mini" if text == "stories" else f"{split}-{text}"


def plan(config: CorpusConfig) -> list[Chapter]:
    """Return every chapter of the corpus: who reads what.

    No sentence occurs twice, and dev and test use words of the training split only.

    Raises:
        UserError: the training split is too small to hold the words for dev and test.
    """
    chapters: list[Chapter] = []
    written: set[str] = set()
    vocabulary: set[str] | None = None
    sizes = asdict(config)
    for split in SPLITS:
        kind = StoryWriter if config.text == "stories" else Speller
        writer = kind(f"{config.seed}/{split}", avoid=written, vocabulary=vocabulary)
        for speaker in make_speakers(split, sizes[f"{split}_speakers"], config.seed):
            remaining = sizes[f"{split}_utterances"]
            chapter_count = -(-remaining // CHAPTER_LENGTH)
            for number in range(1, chapter_count + 1):
                length = -(-remaining // (chapter_count + 1 - number))
                remaining -= length
                story = tuple(writer.story(length))
                name = speaker.id * 100 + number
                chapters.append(Chapter(split, speaker, name, story, config.text))
                written.update(map(transcript, story))
        if vocabulary is None:
            vocabulary = {word for text in written for word in text.split()}
    return chapters


def make_corpus(
    out: str | Path, config: CorpusConfig, *, nj: int = 1, progress: bool = True
) -> None:
    """Write the corpus to the folder `out`, keeping what is there of the same configuration.

    Args:
        out: LibriSpeech root: the folder that holds `train-mini` and the other splits.
        config: sizes and seed.
        nj: chapters made at once; the files do not depend on it.
        progress: show a progress bar on stderr.

    Raises:
        UserError: espeakng-loader is missing, or `out` holds something else.
    """
    out = Path(out)
    with Espeak() as espeak:
        espeak.speak([], seed=0)  # fails before anything is written
    chapters = plan(config)
    _claim(out, config)
    total = sum(len(chapter.sentences) for chapter in chapters)
    durations: dict[int, float] = {}
    # Threads, because the synthesizers are processes of their own and encoding frees the lock.
    with (
        ThreadPoolExecutor(nj) as pool,
        tqdm(total=total, unit="utt", desc="Speaking", disable=not progress) as bar,
    ):
        futures = {pool.submit(_make_chapter, out, ch, config.seed): ch for ch in chapters}
        try:
            for future in as_completed(futures):
                chapter, seconds = futures[future], future.result()
                durations[chapter.speaker.id] = durations.get(chapter.speaker.id, 0.0) + seconds
                bar.set_postfix_str(f"{sum(durations.values()) / 60:.1f} min", refresh=False)
                bar.update(len(chapter.sentences))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    write_text(out / "SPEAKERS.TXT", _speakers_table(chapters, durations))


def _claim(out: Path, config: CorpusConfig) -> None:
    """Write `corpus.json`, or check that it says the same."""
    path = out / "corpus.json"
    leftovers = list(out.glob(".tmp-*"))  # of a run that was killed
    wanted = {"format": _FORMAT, "espeakng_loader": version("espeakng-loader"), **asdict(config)}
    if not path.exists():
        if out.is_dir() and set(out.iterdir()) - set(leftovers):
            raise UserError(
                f"{out} is not empty and holds no synthetic corpus",
                remedy="name another folder, or remove this one",
            )
        write_json(path, wanted)
        _remove(leftovers)
        return
    # Before there was a choice of text, it was stories.
    found = {"text": "stories"} | read_json(path, remedy=f"rm -r {out}, or name another folder")
    different = [
        f"{key} {found.get(key)} -> {wanted[key]}"
        for key in wanted
        if found.get(key) != wanted[key]
    ]
    if different:
        raise UserError(
            f"{out} holds a corpus of another configuration: {', '.join(different)}",
            remedy=f"rm -r {out}, name another folder, or keep the configuration of {path}",
        )
    _remove(leftovers)


def _remove(leftovers: list[Path]) -> None:
    for path in leftovers:
        path.unlink(missing_ok=True)


def _make_chapter(out: Path, chapter: Chapter, seed: int) -> float:
    """Write what is missing of a chapter; return its duration in seconds."""
    directory = out / chapter.directory
    directory.mkdir(parents=True, exist_ok=True)
    _remove(list(directory.glob(".tmp-*")))
    paths = {name: directory / f"{name}.flac" for name, _ in chapter.utterances()}
    missing = [pair for pair in chapter.utterances() if not paths[pair[0]].exists()]
    if missing:
        with Espeak() as espeak:
            for name, sentence in missing:
                wave = _make_utterance(espeak, chapter, name, sentence, seed)
                with atomic_path(paths[name]) as partial:
                    soundfile.write(partial, wave, SAMPLE_RATE, subtype="PCM_16")
    lines = [f"{name} {transcript(sentence)}\n" for name, sentence in chapter.utterances()]
    write_text(directory / f"{chapter.name}.trans.txt", "".join(lines))
    return sum(soundfile.info(path).duration for path in paths.values())


def _make_utterance(
    espeak: Espeak, chapter: Chapter, utterance: str, sentence: str, seed: int
) -> np.ndarray:
    """Speak a sentence in a room with noise; int16 samples at 16 kHz, a function of the arguments.

    Half of the utterances are in a room with echoes. The noise is coloured noise (half), babble or
    hum (a quarter each) at 10 to 30 dB below the speech, mostly about 25 dB.
    """
    digest = hashlib.sha256(f"{seed}/{utterance}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:16], "little"))
    choices = random.Random(digest)
    speaker = chapter.speaker
    own = Line(
        sentence,
        speaker.voice,
        rate=round(speaker.rate * choices.uniform(0.93, 1.07)),
        pitch=speaker.pitch + choices.randint(-4, 4),
        range=speaker.range + choices.randint(-6, 6),
    )
    kind = choices.choice(["colored", "colored", "babble", "hum"])
    voices = babble_voices(choices, choices.randint(3, 5)) if kind == "babble" else []
    background = [
        Line(choices.choice(chapter.sentences), voice, pitch=choices.randint(30, 70))
        for voice in voices
    ]
    rate, spoken = espeak.speak([own, *background], seed=choices.getrandbits(31))
    first, *others = (
        acoustics.trim(acoustics.resample(samples / 32768, rate)) for samples in spoken
    )
    silence = [int(choices.uniform(0.1, 0.5) * SAMPLE_RATE) for _ in "ab"]
    wave = np.pad(first, silence)
    if choices.random() < 0.5:
        wave = acoustics.convolve(wave, acoustics.room(rng))
    if kind == "babble":
        noise = acoustics.babble(rng, others, len(wave))
    else:
        make = {"colored": acoustics.colored_noise, "hum": acoustics.hum}[kind]
        noise = make(rng, len(wave))
    snr_db = choices.triangular(10, 30, 25)
    wave = acoustics.set_level(
        acoustics.add_noise(wave, noise, snr_db), level_db=choices.uniform(-32, -18)
    )
    return np.round(wave * 32767).astype(np.int16)


def _speakers_table(chapters: list[Chapter], durations: dict[int, float]) -> str:
    lines = [";ID  |SEX| SUBSET           |MINUTES| NAME"]
    speakers = {chapter.speaker.id: (chapter.speaker, chapter.directory) for chapter in chapters}
    for speaker, directory in speakers.values():
        minutes = durations[speaker.id] / 60
        lines.append(
            f"{speaker.id:<5}| {speaker.sex} | {directory.parts[0]:<17}| {minutes:<6.2f}| "
            f"espeak-ng {speaker.voice}, rate {speaker.rate}, pitch {speaker.pitch}, "
            f"range {speaker.range}"
        )
    return "\n".join(lines) + "\n"
