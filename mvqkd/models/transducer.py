"""The parts of a transducer that inference needs."""

from __future__ import annotations

from typing import Any

from torch import nn

from mvqkd.geometry import BLANK
from mvqkd.models.conformer import ConformerEncoder
from mvqkd.models.joiner import Joiner
from mvqkd.models.predictor import StatelessPredictor


class Transducer(nn.Module):
    """Encoder, predictor and joiner (Graves 2012), and optionally a CTC head on the encoder.

    Holds parameters of inference only: what serves training alone belongs to the losses. There is
    no forward pass of the whole, since losses and decoders use the parts differently.

    Args:
        ctc_head: (..., encoder.dim) -> (..., V) logits.

    Raises:
        ValueError: if the parts' dimensions or vocabularies differ.
    """

    blank = BLANK

    def __init__(
        self,
        encoder: ConformerEncoder,
        predictor: StatelessPredictor,
        joiner: Joiner,
        ctc_head: nn.Linear | None = None,
    ) -> None:
        super().__init__()
        pairs = [
            ("encoder and joiner", encoder.dim, joiner.project_encoder.in_features),
            ("predictor and joiner", predictor.dim, joiner.project_predictor.in_features),
            ("predictor's and joiner's vocabulary", predictor.vocab_size, joiner.vocab_size),
        ]
        if ctc_head is not None:
            pairs += [
                ("encoder and CTC head", encoder.dim, ctc_head.in_features),
                ("joiner's and CTC head's vocabulary", joiner.vocab_size, ctc_head.out_features),
            ]
        for what, left, right in pairs:
            if left != right:
                raise ValueError(f"sizes of {what} differ: {left} and {right}")
        self.encoder = encoder
        self.predictor = predictor
        self.joiner = joiner
        self.ctc_head = ctc_head
        self.description: dict[str, Any] = {}
        """What it was built from, see `mvqkd.models.build.build_model`; plain and JSON-able."""

    @property
    def vocab_size(self) -> int:
        """V, with the blank."""
        return self.joiner.vocab_size

    @property
    def context_size(self) -> int:
        """Tokens that the predictor sees."""
        return self.predictor.context_size
