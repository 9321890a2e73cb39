"""From the section `distillation.hypotheses` to texts of a teacher, checked before training."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mvqkd.data.loading.teacher_text import TeacherText, TextChoice
from mvqkd.data.loading.tokenizer import Tokenizer
from mvqkd.data.targets.hypothesis_records import TextLimits, UtteranceHypotheses
from mvqkd.data.targets.hypothesis_store import HypothesisStore
from mvqkd.data.targets.spoken_text import SpokenText
from mvqkd.errors import UserError
from mvqkd.recipe.config.hypotheses_schema import HypothesesConfig
from mvqkd.storage.files import file_digest


def spoken_text(section: HypothesesConfig) -> SpokenText:
    """The normalization of a section."""
    return SpokenText(**asdict(section.normalization))


def text_limits(section: HypothesesConfig) -> TextLimits:
    """The limits of a section."""
    return TextLimits(**asdict(section.limits))


@dataclass(frozen=True)
class OpenedText:
    """Texts of a teacher, opened and found to be those of the configuration."""

    source: TeacherText
    """Where the loaders of training batches take hypotheses from."""
    description: dict[str, Any]
    """What they are, with a hash of all as `texts`, and take on disk (`bytes_per_hour`, of audio);
    JSON-able."""


def open_teacher_text(
    section: HypothesesConfig, folder: Path, teacher: str, lang_dir: Path, *, ctc: bool
) -> OpenedText:
    """Open the stored texts and check that they are those of the configuration.

    Args:
        section: which is on.
        folder: of the texts.
        teacher: URI; not compared where the section names existing texts.
        lang_dir: tokens of the student.
        ctc: whether there is a CTC loss.

    Raises:
        UserError: the texts are missing, damaged, or of another teacher or normalization.
    """
    store = HypothesisStore(folder)
    wanted = {
        "teacher": teacher,
        "normalization": spoken_text(section).describe(),
        "limits": asdict(text_limits(section)),
    }
    for name, value in wanted.items() if not section.targets else ():
        if (found := getattr(store.info, name)) != value:
            raise UserError(
                f"{folder} is of the {name} {found}, not {value}",
                remedy=f"move {folder} away",
                step="hypotheses",
            )
    tokenizer = Tokenizer.load(lang_dir)
    stored_tokens = store.info.tokenizer == file_digest(lang_dir / "bpe.model")
    if not stored_tokens:
        logging.info("%s has tokens of another BPE model: its texts are encoded anew", folder)
    choice = TextChoice(
        num_hypotheses=section.num_hypotheses,
        weighting=section.weighting,
        temperature=section.temperature,
        weight=section.weight,
        truth_share=section.truth_share,
        max_wer=section.max_wer,
        min_confidence=section.min_confidence,
        ctc=ctc,
    )
    seconds: list[float] = []
    digest = hashlib.sha256()

    def utterances() -> Iterator[UtteranceHypotheses]:
        for utterance in store:
            seconds.append(utterance.seconds)
            texts = [(item.text, item.log_prob, item.errors) for item in utterance.hypotheses]
            digest.update(json.dumps([utterance.id, utterance.words, texts]).encode())
            yield utterance

    source = TeacherText(utterances(), tokenizer, choice, stored_tokens=stored_tokens)
    hours = sum(seconds) / 3600
    description = {
        **asdict(store.info),
        "texts": digest.hexdigest()[:16],
        "utterances": len(seconds),
        "bytes_per_hour": store.num_bytes / hours if hours else 0.0,
    }
    return OpenedText(source, description)
