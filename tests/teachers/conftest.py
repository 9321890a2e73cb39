"""Tiny randomly initialised networks of every family, saved and loaded as real ones are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

CONVOLUTIONS = {"conv_dim": (8, 8, 8), "conv_kernel": (10, 3, 2), "conv_stride": (5, 4, 2)}
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 6,
    "pad_token_id": 0,
    **CONVOLUTIONS,
}

# Every family, and within it every variant that treats padding in another way.
VARIANTS: dict[str, tuple[str, dict[str, object], bool]] = {
    "hubert-base": ("Hubert", {"feat_extract_norm": "group", "do_stable_layer_norm": False}, False),
    "hubert-large": ("Hubert", {"feat_extract_norm": "layer", "do_stable_layer_norm": True}, True),
    "hubert-batch-norm": ("Hubert", {"feat_extract_norm": "layer", "conv_pos_batch_norm": True}, 1),
    "wav2vec2-base": ("Wav2Vec2", {"feat_extract_norm": "group"}, True),
    "wav2vec2-large": (
        "Wav2Vec2",
        {"feat_extract_norm": "layer", "do_stable_layer_norm": True},
        True,
    ),
    "wavlm-base": ("WavLM", {"feat_extract_norm": "group"}, False),
    "wavlm-large": ("WavLM", {"feat_extract_norm": "layer", "do_stable_layer_norm": True}, True),
    "data2vec": ("Data2VecAudio", {"num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 5}, True),
}


def randomize(model: torch.nn.Module) -> None:
    """Weights large enough that every part of a network shows in its output."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(noise / parameter[0].numel() ** 0.5 * 1.5)
            else:
                parameter.add_(0.3 * noise)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(torch.randn(buffer.shape, generator=generator))


@pytest.fixture(scope="session")
def save_variant(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`save_variant(name, ctc=False)` -> the folder of a tiny checkpoint."""
    saved: dict[tuple[str, bool], Path] = {}

    def save(name: str, *, ctc: bool = False) -> Path:
        if (name, ctc) not in saved:
            saved[name, ctc] = _save(name, ctc, tmp_path_factory.mktemp(name))
        return saved[name, ctc]

    return save


def _save(name: str, ctc: bool, folder: Path) -> Path:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    if name == "whisper":
        config = transformers.WhisperConfig(
            d_model=16,
            encoder_layers=3,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=24,
            decoder_ffn_dim=8,
            vocab_size=6,
            max_target_positions=4,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
        )
        model = transformers.WhisperModel(config)
        extractor = transformers.WhisperFeatureExtractor()
    else:
        family, options, normalize = VARIANTS[name]
        options = {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, **options}
        config = getattr(transformers, f"{family}Config")(**SIZES, **options)
        model = getattr(transformers, f"{family}{'ForCTC' if ctc else 'Model'}")(config)
        extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=bool(normalize))
    randomize(model)
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    if ctc:
        vocabulary = '{"<pad>": 0, "<unk>": 1, "|": 2, "A": 3, "B": 4, "C": 5}'
        (folder / "vocab.json").write_text(vocabulary)
    return folder


@pytest.fixture(scope="session")
def waveforms() -> list[torch.Tensor]:
    """Utterances of different lengths and loudness, with an offset that normalization removes."""
    generator = torch.Generator().manual_seed(0)
    return [
        level * torch.randn(samples, generator=generator) + 0.05
        for samples, level in [(4000, 0.1), (3333, 0.02), (4000, 0.3), (1600, 0.05)]
    ]
