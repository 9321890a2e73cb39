"""Models, sounds and expectations of the tests of exported files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mvqkd.features.fbank import extract
from mvqkd.models import AsrModel, StreamingConfig
from mvqkd.models.build import build_model

CHUNKS = StreamingConfig(4, 8)
VOCAB_SIZE = 30
TOKENS = ["<blk>", "<sos/eos>", "<unk>", *(f"t{i}" for i in range(3, VOCAB_SIZE))]


def make_model(
    *,
    causal: bool,
    half_rate: list[int] | None = None,
    context_size: int = 2,
    conv_kernel: int = 5,
) -> AsrModel:
    """A random model whose searches emit tokens at many frames."""
    torch.manual_seed(0)
    sizes = {
        **{"dim": 32, "num_layers": 3, "num_heads": 2, "feedforward_dim": 48},
        **{"dropout": 0.0, "causal": causal, "predictor_dim": 24, "context_size": context_size},
        **{"joiner_dim": 20, "conv_kernel": conv_kernel, "half_rate": half_rate or []},
        **{"chunk_size": [4] if causal else [], "left_context": 8 if causal else -1},
    }
    model = build_model(
        {"model": sizes, "vocab_size": VOCAB_SIZE, "heads": ["transducer", "ctc"]}
    ).eval()
    assert model.transducer is not None and model.ctc is not None
    with torch.no_grad():
        # Random logits are nearly equal; sharper ones make the tokens depend on the input.
        model.transducer.joiner.output.weight *= 8.0
        model.transducer.predictor.conv.weight *= 4.0
        model.ctc.output.weight *= 4.0
    return model


def make_waves(seed: int = 0) -> list[np.ndarray]:
    """Chirps in noise of changing loudness, of different lengths."""
    rng = np.random.default_rng(seed)
    waves = []
    for seconds in (2.3, 1.1, 3.0):
        time = np.arange(round(seconds * 16000)) / 16000
        tone = sum(
            np.sin(2 * np.pi * (start * time + slope * time**2))
            for start, slope in rng.uniform([100, -200], [3000, 900], (4, 2))
        )
        loudness = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(1, 4) * time)
        noise = rng.standard_normal(len(time))
        waves.append((0.05 * loudness * (tone + 0.3 * noise)).astype(np.float32))
    return waves


def features_of(waves: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    """(N, T, C), (N,)."""
    rows = [torch.from_numpy(extract(wave)) for wave in waves]
    return torch.nn.utils.rnn.pad_sequence(rows, True), torch.tensor([len(row) for row in rows])


def write_tokens(folder: Path) -> Path:
    """`tokens.txt` of tokens that their ids can be read from."""
    path = folder / "tokens.txt"
    path.write_text("".join(f"{token} {i}\n" for i, token in enumerate(TOKENS)))
    return path


def ids(tokens: list[str]) -> list[int]:
    return [TOKENS.index(token.strip()) for token in tokens]
