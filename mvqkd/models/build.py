"""From plain sizes to modules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from mvqkd.models.conformer import ConformerEncoder
from mvqkd.models.joiner import Joiner
from mvqkd.models.predictor import StatelessPredictor
from mvqkd.models.transducer import Transducer


def build_model(description: Mapping[str, Any]) -> Transducer:
    """A model with random weights.

    Args:
        description: what every file of weights holds beside them, plain and JSON-able:

            - `model`: sizes `dim`, `num_layers`, `num_heads`, `feedforward_dim`, `conv_kernel`,
              `dropout`, `causal`, `predictor_dim`, `context_size` and `joiner_dim`, with the
              meanings that they have in `ConformerEncoder`, `StatelessPredictor` and `Joiner`;
              others, such as the chunk sizes of training, are kept in `Transducer.description`.
            - `vocab_size`: V, with the blank.
            - `ctc_head`: whether there is one.

    Raises:
        ValueError: sizes that do not fit together.
        KeyError: a size is missing.
    """
    sizes, vocab_size = description["model"], description["vocab_size"]
    encoder = ConformerEncoder(
        **{
            name: sizes[name]
            for name in (
                "dim",
                "num_layers",
                "num_heads",
                "feedforward_dim",
                "conv_kernel",
                "dropout",
                "causal",
            )
        }
    )
    predictor = StatelessPredictor(
        vocab_size=vocab_size, dim=sizes["predictor_dim"], context_size=sizes["context_size"]
    )
    joiner = Joiner(
        encoder_dim=sizes["dim"],
        predictor_dim=sizes["predictor_dim"],
        joiner_dim=sizes["joiner_dim"],
        vocab_size=vocab_size,
    )
    head = nn.Linear(sizes["dim"], vocab_size) if description["ctc_head"] else None
    model = Transducer(encoder, predictor, joiner, head)
    model.description = dict(description)
    return model
