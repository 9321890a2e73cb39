"""An encoder and the heads that recognize from its output."""

from __future__ import annotations

from typing import Any

from torch import nn

from mvqkd.models.conformer import ConformerEncoder
from mvqkd.models.ctc import CTCHead
from mvqkd.models.transducer import TransducerHead


class AsrModel(nn.Module):
    """One encoder with heads beside each other, any of which may be missing.

    Holds parameters of inference only: what serves training alone belongs to the losses.

    Args:
        encoder: of all heads.
        transducer: predictor and joiner.
        ctc: linear layer.

    Attributes:
        description: what it was built from, plain and JSON-able; see
            `mvqkd.models.build.build_model`.

    Raises:
        ValueError: if there is no head, or the modules' dimensions or vocabularies differ.
    """

    def __init__(
        self,
        encoder: ConformerEncoder,
        *,
        transducer: TransducerHead | None = None,
        ctc: CTCHead | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.transducer = transducer
        self.ctc = ctc
        self.description: dict[str, Any] = {}
        if not self.heads:
            raise ValueError("a model needs a head: transducer or ctc")
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
    def heads(self) -> dict[str, TransducerHead | CTCHead]:
        """Those that there are, by name."""
        return {
            name: head
            for name, head in (("transducer", self.transducer), ("ctc", self.ctc))
            if head is not None
        }

    @property
    def vocab_size(self) -> int:
        """V, with the blank."""
        return next(iter(self.heads.values())).vocab_size
