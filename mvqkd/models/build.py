"""From plain sizes to modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mvqkd.models.asr_model import AsrModel, Encoder
from mvqkd.models.attention_decoder import TransformerDecoder
from mvqkd.models.conformer import ConformerEncoder
from mvqkd.models.ctc import CTCHead
from mvqkd.models.gru_decoder import GruDecoder
from mvqkd.models.gru_encoder import GruEncoder
from mvqkd.models.joiner import Joiner
from mvqkd.models.predictor import StatelessPredictor
from mvqkd.models.transducer import TransducerHead

_ENCODER_SIZES = (
    "dim",
    "num_layers",
    "num_heads",
    "feedforward_dim",
    "conv_kernel",
    "dropout",
    "causal",
)
# Younger than some files of weights, which have the defaults.
_ENCODER_OPTIONS = ("attention_dropout", "layer_drop", "subsampling_channels", "half_rate")
_GRU_SIZES = ("dim", "num_layers", "dropout")
_INPUT = "input_dim"  # of other features than 80 mel bins
_HEADS = ("transducer", "ctc", "attention")


def build_model(description: Mapping[str, Any]) -> AsrModel:
    """A model with random weights, initialized in the order of the encoder and the heads.

    Args:
        description: what every file of weights holds beside them, plain and JSON-able:

            - `model`: sizes `dim`, `num_layers`, `num_heads`, `feedforward_dim`, `conv_kernel`,
              `dropout`, `causal`, `predictor_dim`, `context_size` and `joiner_dim`, with the
              meanings that they have in `ConformerEncoder`, `StatelessPredictor` and `Joiner`, and
              perhaps `attention_dropout`, `layer_drop`, `subsampling_channels`, `half_rate` and,
              where it is not 80, `input_dim`;
              `encoder`: `conformer` (where it is missing) or `gru`, which takes `dim`, `num_layers`
              and `dropout`; `decoder`, for the head `attention`: `kind`, `transformer` or `gru`,
              and the arguments of `TransformerDecoder` or of `GruDecoder`; others, such as the
              chunk sizes of training, are kept in `AsrModel.description`.
            - `vocab_size`: V, with the blank.
            - `heads`: any of `transducer`, `ctc` and `attention`.

    Raises:
        ValueError: sizes that do not fit together, or an unknown encoder, decoder or head.
        KeyError: a size is missing.
    """
    sizes, vocab_size = description["model"], description["vocab_size"]
    heads = list(description["heads"])
    for head in heads:
        _known(head, "head", _HEADS)
    encoder = _build_encoder(sizes)
    transducer = ctc = attention = None
    if "transducer" in heads:
        transducer = TransducerHead(
            StatelessPredictor(
                vocab_size=vocab_size,
                dim=sizes["predictor_dim"],
                context_size=sizes["context_size"],
            ),
            Joiner(
                encoder_dim=sizes["dim"],
                predictor_dim=sizes["predictor_dim"],
                joiner_dim=sizes["joiner_dim"],
                vocab_size=vocab_size,
            ),
        )
    if "ctc" in heads:
        ctc = CTCHead(encoder_dim=sizes["dim"], vocab_size=vocab_size)
    if "attention" in heads:
        attention = _build_decoder(sizes["decoder"], encoder.dim, vocab_size)
    model = AsrModel(encoder, transducer=transducer, ctc=ctc, attention=attention)
    model.description = dict(description)
    return model


def _build_encoder(sizes: Mapping[str, Any]) -> Encoder:
    if _known(sizes.get("encoder", "conformer"), "encoder", ("conformer", "gru")) == "gru":
        given = {name: sizes[name] for name in (_INPUT,) if name in sizes}
        return GruEncoder(**{name: sizes[name] for name in _GRU_SIZES}, **given)
    options = {name: sizes[name] for name in (*_ENCODER_OPTIONS, _INPUT) if name in sizes}
    return ConformerEncoder(**{name: sizes[name] for name in _ENCODER_SIZES}, **options)


def _build_decoder(
    sizes: Mapping[str, Any], encoder_dim: int, vocab_size: int
) -> TransformerDecoder | GruDecoder:
    shared = {
        "encoder_dim": encoder_dim,
        "vocab_size": vocab_size,
        **{name: sizes[name] for name in ("dim", "num_layers", "dropout")},
    }
    if _known(sizes["kind"], "decoder", ("transformer", "gru")) == "gru":
        return GruDecoder(**shared)
    return TransformerDecoder(
        **shared, **{name: sizes[name] for name in ("num_heads", "feedforward_dim")}
    )


def _known(name: str, what: str, names: Sequence[str]) -> str:
    if name not in names:
        raise ValueError(f"there is no {what} {name}; there are {', '.join(names)}")
    return name
