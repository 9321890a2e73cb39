from __future__ import annotations

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

ENCODER = {"dim": 16, "num_layers": 1, "num_heads": 2, "feedforward_dim": 16, "conv_kernel": 3}


def make_head(
    *, encoder_dim: int = 16, predictor_dim: int = 8, vocab_size: int = 11
) -> TransducerHead:
    return TransducerHead(
        StatelessPredictor(vocab_size=vocab_size, dim=predictor_dim, context_size=3),
        Joiner(encoder_dim=encoder_dim, predictor_dim=8, joiner_dim=4, vocab_size=11),
    )


def test_joiner_broadcasts() -> None:
    joiner = Joiner(encoder_dim=16, predictor_dim=8, joiner_dim=4, vocab_size=11)
    frames = joiner.project_encoder(torch.randn(2, 5, 1, 16))
    tokens = joiner.project_predictor(torch.randn(2, 1, 3, 8))
    logits = joiner(frames, tokens)
    assert logits.shape == (2, 5, 3, 11)
    one = joiner.output(torch.tanh(frames[1, 4, 0] + tokens[1, 0, 2]))
    torch.testing.assert_close(logits[1, 4, 2], one)


def test_heads_stand_beside_each_other_on_one_encoder() -> None:
    transducer, ctc = make_head(), CTCHead(encoder_dim=16, vocab_size=11)
    model = AsrModel(ConformerEncoder(**ENCODER), transducer=transducer, ctc=ctc)
    assert model.heads == {"transducer": transducer, "ctc": ctc}
    assert (model.vocab_size, transducer.blank, transducer.context_size) == (11, 0, 3)
    parts = list(dict.fromkeys(name.split(".")[0] for name, _ in model.named_parameters()))
    assert parts == ["encoder", "transducer", "ctc"]
    assert ctc(torch.randn(2, 5, 16)).shape == (2, 5, 11)
    for one in ({"transducer": transducer}, {"ctc": ctc}):
        alone = AsrModel(ConformerEncoder(**ENCODER), **one)
        assert alone.heads == one and alone.vocab_size == 11


def test_parts_must_fit() -> None:
    with pytest.raises(ValueError, match="predictor and joiner differ: 9 and 8"):
        make_head(predictor_dim=9)
    with pytest.raises(ValueError, match="vocabulary differ: 12 and 11"):
        make_head(vocab_size=12)
    encoder = ConformerEncoder(**ENCODER)
    with pytest.raises(ValueError, match="needs a head"):
        AsrModel(encoder)
    with pytest.raises(ValueError, match="encoder and transducer head differ: 16 and 15"):
        AsrModel(encoder, transducer=make_head(encoder_dim=15))
    with pytest.raises(ValueError, match="encoder and ctc head differ: 16 and 15"):
        AsrModel(encoder, ctc=CTCHead(encoder_dim=15, vocab_size=11))
    with pytest.raises(ValueError, match="vocabularies of the heads differ: 11 and 12"):
        AsrModel(encoder, transducer=make_head(), ctc=CTCHead(encoder_dim=16, vocab_size=12))
