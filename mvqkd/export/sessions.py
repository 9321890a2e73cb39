"""Exported files in onnxruntime, as models for the searches of `mvqkd.decoding`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from mvqkd.decoding.hypothesis import Hypothesis
from mvqkd.decoding.search import Search
from mvqkd.export.onnx_file import OnnxFile
from mvqkd.export.streaming import OnnxStreamingEncoder
from mvqkd.geometry import BLANK, SUBSAMPLING, encoder_frames
from mvqkd.models import CTCHead, TransducerHead


class OnnxHead:
    """What the searches use of a `TransducerHead`, with the projections inside of the files."""

    blank = BLANK

    def __init__(self, decoder: OnnxFile, joiner: OnnxFile) -> None:
        self.decoder_file, self.joiner_file = decoder, joiner
        self.vocab_size = int(decoder.metadata["vocab_size"])
        self.context_size = int(decoder.metadata["context_size"])
        self.predictor = self.joiner = self
        self.output = torch.nn.Linear(1, 1)  # for the device and the type of scores

    def project_encoder(self, frames: Tensor) -> Tensor:
        return frames

    def project_predictor(self, predicted: Tensor) -> Tensor:
        return predicted

    def step(self, context: Tensor) -> Tensor:
        return self.decoder_file(context)[0]

    def __call__(self, frames: Tensor, predicted: Tensor) -> Tensor:
        frames, predicted = torch.broadcast_tensors(frames, predicted)
        logits = self.joiner_file(
            frames.flatten(0, -2).contiguous(), predicted.flatten(0, -2).contiguous()
        )[0]
        return logits.unflatten(0, frames.shape[:-1])


class _LogProbs:
    """What the search uses of a `CTCHead`; a log-softmax of log-probabilities changes nothing."""

    blank = BLANK

    def __init__(self) -> None:
        self.output = torch.nn.Linear(1, 1)

    def __call__(self, frames: Tensor) -> Tensor:
        return frames


class OnnxFrames:
    """Calls of one file for a batch of whole utterances.

    Attributes:
        stream: the encoder of a file for streams; None: it takes whole utterances.
    """

    def __init__(self, file: OnnxFile) -> None:
        self._file = file
        is_streaming = "decode_chunk_len" in file.metadata
        self.stream = OnnxStreamingEncoder(file) if is_streaming else None

    def __call__(self, features: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
        """(N, T, C), (N,) -> (N, T', D), (N,); the last chunk of a stream is made up with
        silence."""
        features = features.float().cpu()
        lens = lens.cpu()
        if self.stream is None:
            out, out_lens = self._file(features, lens)
            return out, out_lens
        encoder = self.stream
        out_lens = encoder_frames(lens)
        shift, window = SUBSAMPLING * encoder.chunk_size, encoder.window
        chunks = max(1, -(-int(out_lens.max()) // encoder.chunk_size))
        needed = (chunks - 1) * shift + window
        features = F.pad(features, (0, 0, 0, max(0, needed - features.size(1))))
        state = encoder.initial_state(len(lens), encoder.left_context)
        outs = []
        for first in range(0, chunks * shift, shift):
            x = features[:, first : first + window]
            out, state = encoder.stream(x, state, encoder.chunk_size, lens - first)
            outs.append(out)
        return torch.cat(outs, dim=1), out_lens


class OnnxTransducer:
    """Encoder, decoder and joiner, for whole utterances or for streams.

    Args:
        files: `encoder`, `decoder` and `joiner`.
        num_threads: of each.

    Attributes:
        encode: (N, T, C) features and (N,) lens -> (N, T', J) frames and (N,).
        head: for searches; takes the place of a `TransducerHead`.

    Raises:
        UserError: a file is missing or damaged.
    """

    def __init__(self, files: Mapping[str, Path], *, num_threads: int = 1) -> None:
        opened = {name: OnnxFile(path, num_threads=num_threads) for name, path in files.items()}
        self.encode = OnnxFrames(opened["encoder"])
        self.head = cast(TransducerHead, OnnxHead(opened["decoder"], opened["joiner"]))


class OnnxCTC:
    """Encoder and CTC head; as `OnnxTransducer`, with the file `ctc`."""

    def __init__(self, files: Mapping[str, Path], *, num_threads: int = 1) -> None:
        self.encode = OnnxFrames(OnnxFile(files["ctc"], num_threads=num_threads))
        self.head = cast(CTCHead, _LogProbs())


def decode_onnx(
    model: OnnxTransducer | OnnxCTC, search: Search[Any], features: Tensor, lens: Tensor
) -> list[list[Hypothesis]]:
    """Decode (N, T, C) utterances with (N,) frames; `search` is over the model's head."""
    out, out_lens = model.encode(features, lens)
    return search.hypotheses(search.advance(search.start(len(lens)), out, out_lens))
