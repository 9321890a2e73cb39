from __future__ import annotations

import pytest
import torch
from torch import nn

from mvqkd.models import ConformerEncoder, Joiner, StatelessPredictor, Transducer

ENCODER = {"dim": 16, "num_layers": 1, "num_heads": 2, "feedforward_dim": 16, "conv_kernel": 3}


def test_joiner_broadcasts() -> None:
    joiner = Joiner(encoder_dim=16, predictor_dim=8, joiner_dim=4, vocab_size=11)
    frames = joiner.project_encoder(torch.randn(2, 5, 1, 16))
    tokens = joiner.project_predictor(torch.randn(2, 1, 3, 8))
    logits = joiner(frames, tokens)
    assert logits.shape == (2, 5, 3, 11)
    one = joiner.output(torch.tanh(frames[1, 4, 0] + tokens[1, 0, 2]))
    torch.testing.assert_close(logits[1, 4, 2], one)


def test_parts_and_sizes() -> None:
    model = Transducer(
        ConformerEncoder(**ENCODER),
        StatelessPredictor(vocab_size=11, dim=8, context_size=3),
        Joiner(encoder_dim=16, predictor_dim=8, joiner_dim=4, vocab_size=11),
        nn.Linear(16, 11),
    )
    assert (model.vocab_size, model.blank, model.context_size) == (11, 0, 3)
    parts = {name.split(".")[0] for name, _ in model.named_parameters()}
    assert parts == {"encoder", "predictor", "joiner", "ctc_head"}


@pytest.mark.parametrize(
    "predictor_dim, vocab_size, ctc, message",
    [
        (9, 11, None, "predictor and joiner differ: 9 and 8"),
        (8, 12, None, "vocabulary differ: 12 and 11"),
        (8, 11, (16, 12), "CTC head's vocabulary differ: 11 and 12"),
        (8, 11, (15, 11), "encoder and CTC head differ: 16 and 15"),
    ],
)
def test_parts_must_fit(
    predictor_dim: int, vocab_size: int, ctc: tuple[int, int] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Transducer(
            ConformerEncoder(**ENCODER),
            StatelessPredictor(vocab_size=vocab_size, dim=predictor_dim),
            Joiner(encoder_dim=16, predictor_dim=8, joiner_dim=4, vocab_size=11),
            None if ctc is None else nn.Linear(*ctc),
        )
