"""An encoder and the heads that recognize from its output."""

from __future__ import annotations

from typing import Any, TypeAlias

from torch import nn

from mvqkd.models.attention_decoder import TransformerDecoder
from mvqkd.models.conformer import ConformerEncoder
from mvqkd.models.ctc import CTCHead
from mvqkd.models.gru_decoder import GruDecoder
from mvqkd.models.gru_encoder import GruEncoder
from mvqkd.models.transducer import TransducerHead

Encoder: TypeAlias = ConformerEncoder | GruEncoder
Head: TypeAlias = TransducerHead | CTCHead | TransformerDecoder | GruDecoder


class AsrModel(nn.Module):
    """One encoder with heads beside each other, any of which may be missing.

    Holds parameters of inference only: what serves training alone belongs to the losses.

    Args:
        encoder: of all heads.
        transducer: predictor and joiner.
        ctc: linear layer.
        attention: decoder.

    Attributes:
        description: what it was built from, plain and JSON-able; see
            `mvqkd.models.build.build_model`.

    Raises:
        ValueError: if there is no head, or the modules' dimensions or vocabularies differ.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        transducer: TransducerHead | None = None,
        ctc: CTCHead | None = None,
        attention: TransformerDecoder | GruDecoder | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.transducer = transducer
        self.ctc = ctc
        self.attention = attention
        self.description: dict[str, Any] = {}
        if not self.heads:
            raise ValueError("a model needs a head: transducer, ctc or attention")
        for name, head in self.heads.items():
            if head.encoder_dim != encoder.dim:
                raise ValueError(
                    f"sizes of encoder and {name} head differ: {encoder.dim} and {head.encoder_dim}"
                )
            if head.vocab_size != self.vocab_size:
                raise ValueError(
                    f"vocabularies of the heads differ: {self.vocab_size} and {head.vocab_size}"
                )

    @property
    def conformer(self) -> ConformerEncoder:
        """The encoder, for what works with a Conformer alone.

        Raises:
            ValueError: it is another.
        """
        if not isinstance(self.encoder, ConformerEncoder):
            raise ValueError("the encoder is recurrent: this works with a Conformer alone")
        return self.encoder

    @property
    def heads(self) -> dict[str, Head]:
        """Those that there are, by name."""
        heads = {"transducer": self.transducer, "ctc": self.ctc, "attention": self.attention}
        return {name: head for name, head in heads.items() if head is not None}

    @property
    def vocab_size(self) -> int:
        """V, with the blank."""
        return next(iter(self.heads.values())).vocab_size
