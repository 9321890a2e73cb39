"""Conformer encoder, transducer and CTC heads, and the model made of them."""

from mvqkd.models.asr_model import AsrModel
from mvqkd.models.conformer import ConformerEncoder
from mvqkd.models.ctc import CTCHead
from mvqkd.models.joiner import Joiner
from mvqkd.models.predictor import StatelessPredictor
from mvqkd.models.state import EncoderState
from mvqkd.models.streaming import FULL_CONTEXT, StreamingConfig
from mvqkd.models.taps import Taps
from mvqkd.models.transducer import TransducerHead

__all__ = [
    "FULL_CONTEXT",
    "AsrModel",
    "CTCHead",
    "ConformerEncoder",
    "EncoderState",
    "Joiner",
    "StatelessPredictor",
    "StreamingConfig",
    "Taps",
    "TransducerHead",
]
