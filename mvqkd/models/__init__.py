"""Conformer encoder, stateless predictor, joiner and the transducer made of them."""

from mvqkd.models.conformer import ConformerEncoder
from mvqkd.models.joiner import Joiner
from mvqkd.models.predictor import StatelessPredictor
from mvqkd.models.state import EncoderState
from mvqkd.models.taps import Taps
from mvqkd.models.transducer import Transducer

__all__ = [
    "ConformerEncoder",
    "EncoderState",
    "Joiner",
    "StatelessPredictor",
    "Taps",
    "Transducer",
]
