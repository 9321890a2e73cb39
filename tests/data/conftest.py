"""A tiny corpus in LibriSpeech's layout, and what the stages make of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mvqkd.data.folder import DataFolder
from mvqkd.data.prepare.fbank import manifest_cuts, store_features
from mvqkd.data.prepare.manifests import prepare_manifests
from mvqkd.data.prepare.tokens import all_transcripts, check_tokens, prepare_tokenizer

WORDS = ["THE", "CAT", "SAT", "ON", "A", "MAT", "WHILE", "TWO", "DOGS", "RAN", "ROUND", "OUR"]
WORDS += ["HOUSE", "AND", "SANG", "SONGS"]


def speech(seconds: float, seed: int, rate: int = 16000) -> np.ndarray:
    """(samples,) float32: noise of changing loudness."""
    random = np.random.default_rng(seed)
    samples = random.standard_normal(round(seconds * rate)) * 0.05
    return (samples * (1.2 + np.sin(np.arange(len(samples)) / 2000))).astype(np.float32)


def write_part(
    root: Path, part: str, *, chapters: int = 2, utterances: int = 5, seed: int = 0
) -> None:
    """Utterances of 0.5 to 2 seconds, as FLAC."""
    random = np.random.default_rng([seed, *part.encode()])
    for chapter in range(chapters):
        speaker = 100 + chapter + len(part)
        folder = root / "LibriSpeech" / part / str(speaker) / "7"
        folder.mkdir(parents=True)
        lines = []
        for number in range(utterances):
            name = f"{speaker}-7-{number:04d}"
            samples = speech(random.uniform(0.5, 2.0), int(random.integers(1 << 30)))
            soundfile.write(folder / f"{name}.flac", samples, 16000)
            text = " ".join(random.choice(WORDS, size=random.integers(1, 4)))
            lines.append(f"{name} {text}\n")
        (folder / f"{speaker}-7.trans.txt").write_text("".join(lines))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Splits `train-tiny` (10 utterances) and `dev-a` (4); never changed by tests."""
    root = tmp_path_factory.mktemp("corpus")
    write_part(root, "train-tiny")
    write_part(root, "dev-a", utterances=2)
    return root


def prepare(corpus: Path, data: Path, speeds: tuple[float, ...] = (1.0, 0.9, 1.1)) -> Path:
    """All three stages into `data`; returns it."""
    prepare_manifests(
        corpus,
        {"train": ["train-tiny"], "dev": ["dev-a"]},
        data,
        prefix="tiny",
        min_seconds=0.1,
        max_seconds=30,
        num_jobs=2,
    )
    folder = DataFolder(data)
    for split in ("train-tiny", "dev-a"):
        store_features(
            manifest_cuts(folder, split),
            folder.cuts(split),
            speeds=speeds if split == "train-tiny" else (1.0,),
            num_jobs=1,
        )
    lang = folder.lang(30)
    texts = all_transcripts([folder.manifest("supervisions", "train-tiny")])
    prepare_tokenizer(texts, 30, lang)
    for split in ("train-tiny", "dev-a"):
        check_tokens(folder.cuts(split), lang)
    folder.record_vocab_size(30)
    return data


@pytest.fixture(scope="session")
def prepared(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of `corpus`; never changed by tests."""
    return prepare(corpus, tmp_path_factory.mktemp("data"))


@pytest.fixture
def prepare_into() -> Callable[..., Path]:
    return prepare


@pytest.fixture
def make_speech() -> Callable[..., np.ndarray]:
    return speech


@pytest.fixture
def make_part() -> Callable[..., None]:
    return write_part
