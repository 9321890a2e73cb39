"""The file of a CTC model: encoder and CTC head, offline or streaming."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mvqkd.export import metadata
from mvqkd.export.graphs import offline_example, offline_inputs, pad_features, streaming_chunks
from mvqkd.export.interface import BATCH, Graph, Interface, TensorSpec
from mvqkd.geometry import SUBSAMPLING, needed_features
from mvqkd.models import FULL_CONTEXT, AsrModel, EncoderState, StreamingConfig

_EMBED_STATES = (128, 3, 19)
"""Size of a `zipformer2`'s state of its subsampling, which ours does not need."""
_PER_LAYER = 6


class OfflineCTC(Graph):
    """Whole utterances -> log-probabilities, as sherpa-onnx's `OfflineRecognizer` takes a
    `zipformer_ctc`.

    Args:
        model: with a CTC head, in evaluation mode.
        chunks: of a streaming student, whose frames attend to what they attend to in its streams.
    """

    def __init__(self, model: AsrModel, chunks: StreamingConfig = FULL_CONTEXT) -> None:
        super().__init__()
        assert model.ctc is not None
        self.encoder = model.conformer
        self.head = model.ctc
        self.chunks = chunks
        self.interface = Interface(
            offline_inputs(model.conformer),
            (
                TensorSpec("log_probs", (BATCH, "T_out", model.vocab_size)),
                TensorSpec("log_probs_len", (BATCH,), torch.int64),
            ),
            metadata.offline_ctc(model.vocab_size),
        )

    def forward(self, x: Tensor, x_lens: Tensor) -> tuple[Tensor, Tensor]:
        """(N, T, C), (N,) -> (N, T', V), (N,)."""
        out, lens = self.encoder(
            pad_features(x),
            x_lens,
            chunk_size=self.chunks.chunk_size,
            left_context=self.chunks.left_context,
        )
        return self.head(out).log_softmax(-1), lens

    def example(self, batch_size: int = 2) -> tuple[Tensor, ...]:
        """See `Graph`."""
        return offline_example(self.interface, batch_size)


class StreamingCTC(Graph):
    """A chunk of each stream -> log-probabilities, in sherpa-onnx's layout of a `zipformer2`, the
    only one in which its streaming CTC recognizer batches streams.

    That layout has six states for each layer. The first holds the attention's inputs, the last two
    those of the convolution, as halves of a kernel; the others pass through.

    Args:
        model: causal, with a CTC head, in evaluation mode.
        chunk_size: frames of 40 ms.
        left_context: frames of 40 ms.
    """

    def __init__(self, model: AsrModel, chunk_size: int, left_context: int) -> None:
        super().__init__()
        assert model.ctc is not None
        encoder = model.conformer
        self.encoder = encoder
        self.head = model.ctc
        self.chunk_size = chunk_size
        self.kept = encoder.conv_kernel // 2
        states = []
        for layer in range(encoder.num_layers):
            for name, shape in (
                ("key", (left_context, BATCH, encoder.dim)),
                ("nonlin_attn", (1, BATCH, left_context, 3 * encoder.dim // 4)),
                ("val1", (left_context, BATCH, 1)),
                ("val2", (left_context, BATCH, 1)),
                ("conv1", (BATCH, encoder.dim, self.kept)),
                ("conv2", (BATCH, encoder.dim, self.kept)),
            ):
                states.append(TensorSpec(f"cached_{name}_{layer}", shape))
        states.append(TensorSpec("embed_states", (BATCH, *_EMBED_STATES)))
        states.append(TensorSpec("processed_lens", (BATCH,), torch.int64))
        features = (BATCH, needed_features(chunk_size), encoder.input_dim)
        self.interface = Interface(
            (TensorSpec("x", features), *states),
            (
                TensorSpec("log_probs", (BATCH, chunk_size, model.vocab_size)),
                *(state._replace(name=f"new_{state.name}") for state in states),
            ),
            metadata.streaming_ctc(model, chunk_size, left_context),
        )

    def forward(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """See `Interface`."""
        *cached, embed, processed = states
        layers = [cached[n : n + _PER_LAYER] for n in range(0, len(cached), _PER_LAYER)]
        attention = torch.stack([layer[0] for layer in layers])
        # (N, D, 2 * (kernel // 2)) of each layer; of an even kernel, the first frame is unused.
        halves = torch.stack([torch.cat([layer[4], layer[5]], dim=2) for layer in layers])
        unused = 2 * self.kept - (self.encoder.conv_kernel - 1)
        convolution = halves[..., unused:].permute(0, 3, 1, 2)
        out, state = self.encoder.stream(
            x, EncoderState(attention, convolution, processed), self.chunk_size
        )
        halves = F.pad(state.convolution.permute(0, 2, 3, 1), (unused, 0))
        following: list[Tensor] = []
        for n, layer in enumerate(layers):
            first, second = halves[n, ..., : self.kept], halves[n, ..., self.kept :]
            following += [state.attention[n], *layer[1:4], first, second]
        shift = SUBSAMPLING * self.chunk_size
        return self.head(out).log_softmax(-1), *following, embed, processed + shift

    def example(self, batch_size: int = 2) -> tuple[Tensor, ...]:
        """See `Graph`."""
        return tuple(spec.example({BATCH: batch_size}) for spec in self.interface.inputs)


def ctc_graphs(model: AsrModel, chunks: StreamingConfig, *, streaming: bool) -> dict[str, Graph]:
    """`ctc`, the one graph of a model; arguments as those of `transducer_graphs`.

    Raises:
        ValueError: the model has no CTC head, or cannot be used like that.
    """
    if model.ctc is None:
        raise ValueError("the model has no CTC head")
    if not streaming:
        return {"ctc": OfflineCTC(model, chunks).eval()}
    return {"ctc": StreamingCTC(model, *streaming_chunks(model.conformer, chunks)).eval()}
