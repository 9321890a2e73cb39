"""The section `distillation.hypotheses` of an experiment, see `mvqkd.recipe.config.schema`.

Only the standard library is imported.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from mvqkd.recipe.config.ranges import Range


@dataclass
class NormalizationConfig:
    """From the teacher's text to the spelling of transcripts; stored texts are normalized."""

    case: Literal["upper", "lower", "keep"] = "upper"
    """Case of letters."""
    punctuation: Literal["remove", "keep"] = "remove"
    """`remove`: only letters, digits, and apostrophes within words are left."""
    numbers: Literal["words", "keep"] = "words"
    """`words`: digits, ordinals, currency, years, times and symbols as they are read; those but
    plain numbers are English."""
    abbreviations: Literal["words", "keep"] = "words"
    """`words`: Mr. -> mister and the like (English)."""
    unicode: Literal["nfkc", "nfc", "ascii"] = "nfkc"
    """Unicode normalization form; `ascii` takes marks off letters too."""
    language: str = "en"
    """Language of numbers, as num2words names it."""
    function: str = ""
    """`python:MODULE:FUNCTION`, from text to text, applied before all others; empty: none."""


@dataclass
class LimitsConfig:
    """What is taken for an invention or a repetition of the teacher, and left out of the store."""

    max_compression_ratio: Annotated[float, Range(0, open_low=True)] = 2.4
    """Bytes of the text to those that zlib makes of it; repetitions have more."""
    min_mean_log_prob: float = -1.0
    """Lowest mean log-probability (nats) of the teacher's tokens."""
    max_characters_per_second: Annotated[float, Range(0, open_low=True)] = 30.0
    """Highest rate of characters."""
    max_no_speech: Annotated[float, Range(0, 1)] = 0.6
    """Highest probability, according to Whisper, that nothing is said; 1: no limit."""


@dataclass
class HypothesesConfig:
    """Sequence-level distillation (arXiv 1811.04531): the student is trained to recognize what the
    teacher wrote, in place of the transcript or beside it, and where there is no transcript."""

    weight: Annotated[float, Range(0)] = 0.0
    """Weight of the recognition losses of an utterance's hypotheses, together; 1: as much as a
    transcript. 0: off."""
    teacher: str = ""
    """The teacher: `hf:ID_OR_FOLDER` (Whisper, or with a CTC head), `torchaudio:NAME`,
    `mvqkd:EXPERIMENT` (of the same recipe, or the folder of any), `python:MODULE:FUNCTION`."""
    num_hypotheses: Annotated[int, Range(1)] = 5
    """K: hypotheses of an utterance that are trained on, at most."""
    beam_size: Annotated[int, Range(1)] = 5
    """Hypotheses that the teacher's search keeps, all of which are stored."""
    weighting: Literal["one_best", "equal", "posterior", "wer"] = "equal"
    """Weights of the K: `one_best`: the first alone; `equal`: the paper's; `posterior`: by the
    teacher's probability; `wer`: by the word error rate, where there is a transcript."""
    temperature: Annotated[float, Range(0, open_low=True)] = 1.0
    """Divides the log-probabilities of `posterior`, or the error rates (0 to 1) of `wer`; small:
    nearly one_best, large: nearly equal."""
    truth_share: Annotated[float, Range(0, 1)] = 0.0
    """Weight of the transcript, where there is one, in its mixture with the hypotheses. 0: they
    take its place; 1: they are used on audio without transcripts alone (data.unlabelled_ratio)."""
    max_wer: Annotated[float, Range(0)] = 0.0
    """Utterances with a transcript are left out if the teacher's best hypothesis has more word
    errors, in percent (10: arXiv 2311.00430); 0: none is."""
    min_confidence: Annotated[float, Range(0, 1)] = 0.0
    """Utterances without a transcript are left out if the geometric mean of the probabilities of
    the tokens of the teacher's best hypothesis is lower; 0: none is."""
    targets: str = ""
    """Folder of existing hypotheses; empty: those made by the recipe's stage."""
    normalization: NormalizationConfig = field(default_factory=NormalizationConfig)
    """From the teacher's text to the spelling of transcripts."""
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    """Inventions and repetitions of the teacher."""
