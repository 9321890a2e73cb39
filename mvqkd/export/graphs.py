"""The files of a transducer: encoder (offline or streaming), decoder, joiner."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mvqkd.export import metadata
from mvqkd.export.interface import BATCH, Graph, Interface, TensorSpec
from mvqkd.geometry import RECEPTIVE_FIELD, needed_features
from mvqkd.models import (
    FULL_CONTEXT,
    AsrModel,
    ConformerEncoder,
    EncoderState,
    StreamingConfig,
    TransducerHead,
)

_EXAMPLE_FRAMES = 95


def pad_features(x: Tensor) -> Tensor:
    """(N, T, C) -> (N, T + 6, C): a frame of the encoder for the shortest utterance, too. A graph
    cannot do so for short ones alone; masks hide what it adds to others."""
    return F.pad(x, (0, 0, 0, RECEPTIVE_FIELD - 1))


class OfflineEncoder(Graph):
    """Whole utterances -> frames in the joiner's space.

    Args:
        encoder: in evaluation mode.
        head: its transducer head.
        chunks: of a streaming student, whose frames attend to what they attend to in its streams.
    """

    def __init__(
        self,
        encoder: ConformerEncoder,
        head: TransducerHead,
        chunks: StreamingConfig = FULL_CONTEXT,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.project = head.joiner.project_encoder
        self.chunks = chunks
        self.interface = Interface(
            offline_inputs(encoder),
            (
                TensorSpec("encoder_out", (BATCH, "T_out", head.joiner.joiner_dim)),
                TensorSpec("encoder_out_lens", (BATCH,), torch.int64),
            ),
            metadata.offline_encoder(),
        )

    def forward(self, x: Tensor, x_lens: Tensor) -> tuple[Tensor, Tensor]:
        """(N, T, C), (N,) -> (N, T', J), (N,)."""
        out, lens = self.encoder(
            pad_features(x),
            x_lens,
            chunk_size=self.chunks.chunk_size,
            left_context=self.chunks.left_context,
        )
        return self.project(out), lens

    def example(self, batch_size: int = 2) -> tuple[Tensor, ...]:
        """See `Graph`."""
        return offline_example(self.interface, batch_size)


class StreamingEncoder(Graph):
    """A chunk of each stream -> its frames in the joiner's space, in sherpa-onnx's layout of a
    `conformer`, which counts `processed_lens` in frames of 10 ms.

    Args:
        encoder: causal, in evaluation mode.
        head: its transducer head.
        chunk_size: frames of 40 ms.
        left_context: frames of 40 ms.
    """

    def __init__(
        self, encoder: ConformerEncoder, head: TransducerHead, chunk_size: int, left_context: int
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.project = head.joiner.project_encoder
        self.chunk_size = chunk_size
        cached = (encoder.num_layers, left_context, BATCH, encoder.dim)
        convolved = (encoder.num_layers, encoder.conv_kernel - 1, BATCH, encoder.dim)
        self.interface = Interface(
            (
                TensorSpec("x", (BATCH, needed_features(chunk_size), encoder.input_dim)),
                TensorSpec("cached_attn", cached),
                TensorSpec("cached_conv", convolved),
                TensorSpec("processed_lens", (BATCH,), torch.int64),
            ),
            (
                TensorSpec("encoder_out", (BATCH, chunk_size, head.joiner.joiner_dim)),
                TensorSpec("new_cached_attn", cached),
                TensorSpec("new_cached_conv", convolved),
            ),
            metadata.streaming_encoder(encoder, chunk_size, left_context),
        )

    def forward(
        self, x: Tensor, cached_attn: Tensor, cached_conv: Tensor, processed_lens: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `Interface`."""
        state = EncoderState(cached_attn, cached_conv, processed_lens)
        out, state = self.encoder.stream(x, state, self.chunk_size)
        return self.project(out), state.attention, state.convolution

    def example(self, batch_size: int = 2) -> tuple[Tensor, ...]:
        """See `Graph`."""
        return tuple(spec.example({BATCH: batch_size}) for spec in self.interface.inputs)


class Decoder(Graph):
    """Last tokens -> the predictor's output in the joiner's space. The first context is
    [-1, ..., -1, 0]."""

    def __init__(self, head: TransducerHead) -> None:
        super().__init__()
        self.predictor = head.predictor
        self.project = head.joiner.project_predictor
        self.interface = Interface(
            (TensorSpec("y", (BATCH, head.context_size), torch.int64),),
            (TensorSpec("decoder_out", (BATCH, head.joiner.joiner_dim)),),
            metadata.predictor(vocab_size=head.vocab_size, context_size=head.context_size),
        )

    def forward(self, y: Tensor) -> Tensor:
        """(N, context_size) -> (N, J)."""
        return self.project(self.predictor.step(y))

    def example(self, batch_size: int = 2) -> tuple[Tensor, ...]:
        """See `Graph`."""
        return (self.interface.inputs[0].example({BATCH: batch_size}),)


class JoinerGraph(Graph):
    """A frame and a context -> logits, without a softmax."""

    def __init__(self, head: TransducerHead) -> None:
        super().__init__()
        self.joiner = head.joiner
        width = head.joiner.joiner_dim
        self.interface = Interface(
            (
                TensorSpec("encoder_out", (BATCH, width)),
                TensorSpec("decoder_out", (BATCH, width)),
            ),
            (TensorSpec("logit", (BATCH, head.vocab_size)),),
            metadata.joiner(width),
        )

    def forward(self, encoder_out: Tensor, decoder_out: Tensor) -> Tensor:
        """(N, J), (N, J) -> (N, V)."""
        return self.joiner(encoder_out, decoder_out)

    def example(self, batch_size: int = 2) -> tuple[Tensor, ...]:
        """See `Graph`."""
        return tuple(spec.example({BATCH: batch_size}) for spec in self.interface.inputs)


def transducer_graphs(
    model: AsrModel, chunks: StreamingConfig, *, streaming: bool
) -> dict[str, Graph]:
    """`encoder`, `decoder` and `joiner` of a model.

    Args:
        model: with a transducer head.
        chunks: what its frames attend to; `streaming` needs both numbers.
        streaming: for a recognizer of streams, else for one of whole utterances.

    Raises:
        ValueError: the model has no transducer, or cannot be used like that.
    """
    if model.transducer is None:
        raise ValueError("the model has no transducer head")
    encoder: Graph
    if streaming:
        chunk_size, left_context = streaming_chunks(model.conformer, chunks)
        encoder = StreamingEncoder(model.conformer, model.transducer, chunk_size, left_context)
    else:
        encoder = OfflineEncoder(model.conformer, model.transducer, chunks)
    return {
        "encoder": encoder.eval(),
        "decoder": Decoder(model.transducer).eval(),
        "joiner": JoinerGraph(model.transducer).eval(),
    }


def streaming_chunks(encoder: ConformerEncoder, chunks: StreamingConfig) -> tuple[int, int]:
    """Chunk size and left context of streams.

    Raises:
        ValueError: the encoder or the chunks do not allow streams.
    """
    if not encoder.causal or chunks.chunk_size is None:
        raise ValueError("a model with full context does not stream")
    if chunks.left_context is None:
        raise ValueError("a stream cannot keep an unlimited left context")
    return chunks.chunk_size, chunks.left_context


def offline_inputs(encoder: ConformerEncoder) -> tuple[TensorSpec, ...]:
    """Features and their lengths."""
    return (
        TensorSpec("x", (BATCH, "T", encoder.input_dim)),
        TensorSpec("x_lens", (BATCH,), torch.int64),
    )


def offline_example(interface: Interface, batch_size: int) -> tuple[Tensor, ...]:
    """A batch of utterances of different lengths."""
    x = interface.inputs[0].example({BATCH: batch_size, "T": _EXAMPLE_FRAMES})
    return x, torch.linspace(_EXAMPLE_FRAMES, 60, batch_size).long()
