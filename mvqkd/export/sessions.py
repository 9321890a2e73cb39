"""Exported files in onnxruntime, as models for the searches of `mvqkd.decoding`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mvqkd.decoding.hypothesis import Hypothesis
from mvqkd.decoding.search import Search
from mvqkd.errors import UserError
from mvqkd.geometry import BLANK, DIGITAL_SILENCE, SUBSAMPLING, encoder_frames
from mvqkd.models import CTCHead, TransducerHead


class OnnxFile:
    """A file in onnxruntime, called with tensors by position.

    Args:
        path: of the file.
        num_threads: that it may use.

    Raises:
        UserError: it is missing, or onnxruntime does not take it.
    """

    def __init__(self, path: Path, *, num_threads: int = 1) -> None:
        import onnxruntime

        if not path.is_file():
            raise UserError(f"{path} is missing", remedy="export the model again")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its errors are of its own many kinds
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"{path} is damaged, or no ONNX file: {reason}", remedy="export the model again"
            ) from error
        self.path = path
        self.inputs = self._session.get_inputs()
        self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map

    def __call__(self, *tensors: Tensor) -> list[Tensor]:
        """Outputs of inputs."""
        named = {
            entry.name: tensor.numpy() for entry, tensor in zip(self.inputs, tensors, strict=True)
        }
        return [torch.from_numpy(np.asarray(out)) for out in self._session.run(None, named)]


class _Parts:
    """What the searches use of a `TransducerHead`, with the projections inside of the files."""

    blank = BLANK

    def __init__(self, decoder: OnnxFile, joiner: OnnxFile) -> None:
        self._decoder, self._joiner = decoder, joiner
        self.vocab_size = int(decoder.metadata["vocab_size"])
        self.context_size = int(decoder.metadata["context_size"])
        self.predictor = self.joiner = self
        self.output = torch.nn.Linear(1, 1)  # for the device and the type of scores

    def project_encoder(self, frames: Tensor) -> Tensor:
        return frames

    def project_predictor(self, predicted: Tensor) -> Tensor:
        return predicted

    def step(self, context: Tensor) -> Tensor:
        return self._decoder(context)[0]

    def __call__(self, frames: Tensor, predicted: Tensor) -> Tensor:
        frames, predicted = torch.broadcast_tensors(frames, predicted)
        logits = self._joiner(
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


class _Frames:
    """Calls of one file for a batch of whole utterances."""

    def __init__(self, file: OnnxFile) -> None:
        self.file = file
        self.chunk_frames = int(file.metadata.get("decode_chunk_len", 0))
        self.window = int(file.metadata.get("T", 0))

    def __call__(self, features: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
        """(N, T, C), (N,) -> (N, T', D), (N,); the last chunk of a stream is made up with
        silence."""
        features = features.float().cpu()
        lens = lens.cpu()
        if not self.chunk_frames:
            out, out_lens = self.file(features, lens)
            return out, out_lens
        out_lens = encoder_frames(lens)
        chunks = max(1, -(-int(out_lens.max()) * SUBSAMPLING // self.chunk_frames))
        needed = (chunks - 1) * self.chunk_frames + self.window
        features = F.pad(features, (0, 0, 0, max(0, needed - features.size(1))))
        ended = torch.arange(features.size(1)) >= lens.unsqueeze(1)
        features = features.masked_fill(ended.unsqueeze(2), DIGITAL_SILENCE)
        states = self.initial_states(len(lens))
        outs = []
        for chunk in range(chunks):
            first = chunk * self.chunk_frames
            x = features[:, first : first + self.window].contiguous()
            if len(self.file.inputs) == 4:  # sherpa-onnx counts for a `conformer`
                processed = torch.full((len(lens),), first)
                out, *states = self.file(x, *states, processed)
            else:
                out, *states = self.file(x, *states)
            outs.append(out)
        return torch.cat(outs, dim=1), out_lens

    def initial_states(self, batch_size: int) -> list[Tensor]:
        """Zeros, of all states that a call returns."""
        states = self.file.inputs[1:3] if len(self.file.inputs) == 4 else self.file.inputs[1:]
        return [
            torch.zeros(
                [size if isinstance(size, int) else batch_size for size in state.shape],
                dtype=torch.int64 if state.type == "tensor(int64)" else torch.float32,
            )
            for state in states
        ]


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
        self.encode = _Frames(opened["encoder"])
        self.head = cast(TransducerHead, _Parts(opened["decoder"], opened["joiner"]))


class OnnxCTC:
    """Encoder and CTC head; as `OnnxTransducer`, with the file `ctc`."""

    def __init__(self, files: Mapping[str, Path], *, num_threads: int = 1) -> None:
        self.encode = _Frames(OnnxFile(files["ctc"], num_threads=num_threads))
        self.head = cast(CTCHead, _LogProbs())


def decode_onnx(
    model: OnnxTransducer | OnnxCTC, search: Search[Any], features: Tensor, lens: Tensor
) -> list[list[Hypothesis]]:
    """Decode (N, T, C) utterances with (N,) frames; `search` is over the model's head."""
    out, out_lens = model.encode(features, lens)
    return search.hypotheses(search.advance(search.start(len(lens)), out, out_lens))
