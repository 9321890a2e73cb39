"""Heads, encoders and decoders that do not go together."""

from __future__ import annotations

import pytest

from mvqkd.recipe.config.attention_rules import attention_rules
from mvqkd.recipe.config.attention_schema import DecoderConfig
from mvqkd.recipe.config.schema import DecodingConfig, ExperimentConfig, LossConfig, ModelConfig

ATTENTION = {"transducer_scale": 0.0, "attention_scale": 1.0}
BEAM = DecodingConfig(methods=["attention_beam_search"])
GRU = DecoderConfig(kind="gru")


@pytest.mark.parametrize(
    ("experiment", "problem", "remedy"),
    [
        (
            ExperimentConfig(
                loss=LossConfig(transducer_scale=0.0), decoding=DecodingConfig(methods=[])
            ),
            "no loss trains to recognize",
            "--loss.transducer_scale 1",
        ),
        (
            ExperimentConfig(loss=LossConfig(**ATTENTION)),
            "decoding.methods has greedy_search, but loss.transducer_scale is 0",
            "--decoding.methods '[attention_beam_search]'",
        ),
        (
            ExperimentConfig(decoding=BEAM),
            "attention_beam_search, but loss.attention_scale is 0: there is no attention head",
            "--loss.attention_scale 1, or --decoding.methods",
        ),
        (
            ExperimentConfig(decoding=DecodingConfig(methods=["ctc_greedy_search"])),
            "ctc_greedy_search, but loss.ctc_scale is 0: there is no CTC head",
            "--loss.ctc_scale 0.3",
        ),
        (
            ExperimentConfig(
                loss=LossConfig(**ATTENTION),
                decoding=DecodingConfig(methods=["attention_beam_search"], ctc_weight=0.3),
            ),
            "decoding.ctc_weight is 0.3",
            "--decoding.ctc_weight 0",
        ),
        (
            ExperimentConfig(
                loss=LossConfig(**ATTENTION, ctc_scale=0.3, ctc_warmup_steps=5), decoding=BEAM
            ),
            "there is no transducer, which it holds back",
            "--loss.ctc_warmup_steps 0",
        ),
        (
            ExperimentConfig(model=ModelConfig(encoder="gru", causal=True)),
            "model.encoder is gru, which is bidirectional",
            "--model.encoder conformer",
        ),
        (
            ExperimentConfig(
                model=ModelConfig(dim=128, decoder=GRU), loss=LossConfig(**ATTENTION), decoding=BEAM
            ),
            "model.decoder.dim is 256",
            "--model.decoder.dim 128",
        ),
        (
            ExperimentConfig(loss=LossConfig(**ATTENTION, teacher_forcing=0.4), decoding=BEAM),
            "a Transformer decoder receives all tokens at once",
            "--model.decoder.kind gru",
        ),
    ],
    ids=lambda x: x[:30] if isinstance(x, str) else "",
)
def test_what_does_not_go_together(experiment, problem, remedy):
    (found, *_) = attention_rules(experiment)
    assert problem in found.text and remedy in found.remedy


def test_what_goes_together():
    experiments = [
        ExperimentConfig(),
        ExperimentConfig(loss=LossConfig(**ATTENTION), decoding=BEAM),
        ExperimentConfig(
            model=ModelConfig(encoder="gru", decoder=GRU),
            loss=LossConfig(**ATTENTION, ctc_scale=0.2, teacher_forcing=0.4),
            decoding=DecodingConfig(methods=["attention_beam_search"], ctc_weight=0.3),
        ),
    ]
    assert not [problem for one in experiments for problem in attention_rules(one)]
