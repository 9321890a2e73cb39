"""Joiner of a transducer."""

from __future__ import annotations

from torch import Tensor, nn


class Joiner(nn.Module):
    """logits = output(tanh(encoder_proj + predictor_proj)).

    The projections are apart from `forward`, so that they run once per frame and once per token
    and not once per pair.

    Args:
        encoder_dim: width of the encoder's output.
        predictor_dim: width of the predictor's output.
        joiner_dim: J.
        vocab_size: V, with the blank.
    """

    def __init__(
        self, *, encoder_dim: int, predictor_dim: int, joiner_dim: int, vocab_size: int
    ) -> None:
        super().__init__()
        self.joiner_dim = joiner_dim
        self.vocab_size = vocab_size
        self.project_encoder = nn.Linear(encoder_dim, joiner_dim)
        self.project_predictor = nn.Linear(predictor_dim, joiner_dim)
        self.output = nn.Linear(joiner_dim, vocab_size)

    @property
    def tanh_output(self) -> nn.Linear | None:
        """Declares what `forward` computes to `mvqkd.losses.PrunedTransducerLoss`, which then needs
        no copies of its inputs; None in a subclass with another `forward`."""
        return self.output if type(self).forward is Joiner.forward else None

    def forward(self, encoder_proj: Tensor, predictor_proj: Tensor) -> Tensor:
        """(..., J) and (..., J), broadcast against each other -> logits (..., V)."""
        return self.output((encoder_proj + predictor_proj).tanh())
