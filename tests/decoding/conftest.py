from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from mvqkd.models import (
    AsrModel,
    ConformerEncoder,
    CTCHead,
    Joiner,
    StatelessPredictor,
    TransducerHead,
)


def make_model(
    *, vocab_size: int, context_size: int = 2, dim: int = 16, causal: bool = True, seed: int = 0
) -> AsrModel:
    """A random transducer whose searches emit tokens at about half of the frames."""
    torch.manual_seed(seed)
    encoder = ConformerEncoder(
        dim=dim, num_layers=2, num_heads=2, feedforward_dim=32, conv_kernel=5, causal=causal
    )
    predictor = StatelessPredictor(vocab_size=vocab_size, dim=dim, context_size=context_size)
    joiner = Joiner(encoder_dim=dim, predictor_dim=dim, joiner_dim=dim, vocab_size=vocab_size)
    model = AsrModel(
        encoder,
        transducer=TransducerHead(predictor, joiner),
        ctc=CTCHead(encoder_dim=dim, vocab_size=vocab_size),
    )
    model = model.double().eval()
    with torch.no_grad():
        # Random logits are nearly equal; sharper ones make the tokens depend on the input.
        joiner.output.weight *= 8.0
        assert model.ctc is not None
        model.ctc.output.weight *= 4.0
        predictor.conv.weight *= 4.0
    return model


@pytest.fixture
def make_transducer() -> Callable[..., AsrModel]:
    return make_model
