"""The CTC head (Graves et al. 2006)."""

from __future__ import annotations

from torch import Tensor, nn

from mvqkd.geometry import BLANK


class CTCHead(nn.Module):
    """One linear layer from the encoder's output to the vocabulary.

    Args:
        encoder_dim: D, width of the encoder's output.
        vocab_size: V, with the blank.
    """

    blank = BLANK

    def __init__(self, *, encoder_dim: int, vocab_size: int) -> None:
        super().__init__()
        self.output = nn.Linear(encoder_dim, vocab_size)

    def forward(self, encoder_out: Tensor) -> Tensor:
        """(..., D) -> logits (..., V)."""
        return self.output(encoder_out)

    @property
    def encoder_dim(self) -> int:
        """Width of the encoder's output that the head takes."""
        return self.output.in_features

    @property
    def vocab_size(self) -> int:
        """V, with the blank."""
        return self.output.out_features
