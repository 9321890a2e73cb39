"""Encoders, transducer, CTC and attention heads, and the model made of them."""

from mvqkd.models.asr_model import AsrModel, Encoder
from mvqkd.models.attention_decoder import AttentionDecoder, TransformerDecoder
from mvqkd.models.conformer import ConformerEncoder
from mvqkd.models.ctc import CTCHead
from mvqkd.models.gru_decoder import GruDecoder
from mvqkd.models.gru_encoder import GruEncoder
from mvqkd.models.joiner import Joiner
from mvqkd.models.predictor import StatelessPredictor
from mvqkd.models.state import EncoderState
from mvqkd.models.streaming import FULL_CONTEXT, StreamingConfig
from mvqkd.models.taps import Taps
from mvqkd.models.transducer import TransducerHead

__all__ = [
    "FULL_CONTEXT",
    "AsrModel",
    "AttentionDecoder",
    "CTCHead",
    "ConformerEncoder",
    "Encoder",
    "EncoderState",
    "GruDecoder",
    "GruEncoder",
    "Joiner",
    "StatelessPredictor",
    "StreamingConfig",
    "Taps",
    "TransducerHead",
    "TransformerDecoder",
]
