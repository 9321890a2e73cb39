"""The transducer head: what follows the encoder when a transducer recognizes."""

from __future__ import annotations

from torch import nn

from mvqkd.geometry import BLANK
from mvqkd.models.joiner import Joiner
from mvqkd.models.predictor import StatelessPredictor


class TransducerHead(nn.Module):
    """Predictor and joiner (Graves 2012).

    There is no forward pass of the whole, since losses and searches use the two differently.

    Raises:
        ValueError: if their dimensions or vocabularies differ.
    """

    blank = BLANK

    def __init__(self, predictor: StatelessPredictor, joiner: Joiner) -> None:
        super().__init__()
        for what, left, right in (
            ("predictor and joiner", predictor.dim, joiner.project_predictor.in_features),
            ("predictor's and joiner's vocabulary", predictor.vocab_size, joiner.vocab_size),
        ):
            if left != right:
                raise ValueError(f"sizes of {what} differ: {left} and {right}")
        self.predictor = predictor
        self.joiner = joiner

    @property
    def encoder_dim(self) -> int:
        """Width of the encoder's output that the head takes."""
        return self.joiner.project_encoder.in_features

    @property
    def vocab_size(self) -> int:
        """V, with the blank."""
        return self.joiner.vocab_size

    @property
    def context_size(self) -> int:
        """Tokens that the predictor sees."""
        return self.predictor.context_size
