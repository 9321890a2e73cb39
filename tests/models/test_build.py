"""Models from descriptions."""

from __future__ import annotations

from typing import Any

import pytest

from mvqkd.models.build import build_model

MODEL = {
    "dim": 16,
    "num_layers": 1,
    "num_heads": 2,
    "feedforward_dim": 8,
    "conv_kernel": 3,
    "dropout": 0.1,
    "causal": False,
}
DECODER = {"kind": "transformer", "dim": 16, "num_layers": 1, "dropout": 0.0, "num_heads": 2}


@pytest.mark.parametrize(
    ("change", "heads", "message"),
    [
        ({"encoder": "zipformer"}, ["ctc"], "no encoder zipformer; there are conformer, gru"),
        ({"decoder": DECODER | {"kind": "lstm"}}, ["attention"], "no decoder lstm"),
        ({}, ["ctc", "rnnt"], "no head rnnt; there are transducer, ctc, attention"),
    ],
)
def test_unknown_parts_are_refused(change: dict[str, Any], heads: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model({"model": MODEL | change, "vocab_size": 10, "heads": heads})
