"""Metadata that sherpa-onnx reads from files, and that icefall writes for people.

All values are texts; those that sherpa-onnx takes for numbers are not negative, those that it takes
for lists are separated by commas.
"""

from __future__ import annotations

from mvqkd.geometry import RECEPTIVE_FIELD, SUBSAMPLING, needed_features
from mvqkd.models import AsrModel, ConformerEncoder

AUTHOR = "mvqkd"


def offline_encoder() -> dict[str, str]:
    """Of a transducer's encoder that gets whole utterances."""
    return _texts(model_type="conformer", comment="offline Conformer transducer")


def streaming_encoder(
    encoder: ConformerEncoder, chunk_size: int, left_context: int
) -> dict[str, str]:
    """Of a transducer's encoder that gets chunks; frames of 40 ms."""
    return _texts(
        model_type="conformer",
        comment="streaming Conformer transducer",
        num_encoder_layers=encoder.num_layers,
        encoder_dim=encoder.dim,
        cnn_module_kernel=encoder.conv_kernel,
        chunk_size=chunk_size,
        left_context=left_context,
        right_context=0,
        pad_length=RECEPTIVE_FIELD - SUBSAMPLING,
        **_chunks(chunk_size),
    )


def predictor(*, vocab_size: int, context_size: int) -> dict[str, str]:
    """Of a transducer's decoder."""
    return _texts(vocab_size=vocab_size, context_size=context_size)


def joiner(joiner_dim: int) -> dict[str, str]:
    """Of a transducer's joiner."""
    return _texts(joiner_dim=joiner_dim)


def offline_ctc(vocab_size: int) -> dict[str, str]:
    """Of encoder and CTC head that get whole utterances."""
    return _texts(
        model_type="zipformer2_ctc", comment="offline Conformer CTC", vocab_size=vocab_size
    )


def streaming_ctc(model: AsrModel, chunk_size: int, left_context: int) -> dict[str, str]:
    """Of encoder and CTC head that get chunks, in the layout of a `zipformer2`: one stack with the
    Conformer's layers, whose keys are as wide as the Conformer's frames."""
    encoder = model.conformer
    return _texts(
        model_type="zipformer2",
        comment="streaming Conformer CTC",
        vocab_size=model.vocab_size,
        num_encoder_layers=encoder.num_layers,
        encoder_dims=encoder.dim,
        num_heads=1,
        query_head_dims=encoder.dim,
        value_head_dims=1,
        cnn_module_kernels=encoder.conv_kernel,
        left_context_len=left_context,
        **_chunks(chunk_size),
    )


def _chunks(chunk_size: int) -> dict[str, int]:
    """Raw frames (10 ms) of a call, and those from one call to the next."""
    return {"T": needed_features(chunk_size), "decode_chunk_len": SUBSAMPLING * chunk_size}


def _texts(**values: int | str) -> dict[str, str]:
    named = {"version": 1, "model_author": AUTHOR, **values}
    return {name: str(value) for name, value in named.items()}
