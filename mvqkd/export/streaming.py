"""Exported streaming encoders in onnxruntime, for `mvqkd.decoding.StreamingRecognizer`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mvqkd.export.interface import BATCH
from mvqkd.export.onnx_file import OnnxFile
from mvqkd.geometry import DIGITAL_SILENCE, SUBSAMPLING


class OnnxState(NamedTuple):
    """States of N streams between two calls of a file."""

    arrays: list[NDArray[Any]]
    axes: list[int]
    """The one of streams in each."""

    @staticmethod
    def stack(states: Sequence[OnnxState]) -> OnnxState:
        """Join states into one batch."""
        axes = states[0].axes
        parts = zip(*(state.arrays for state in states), strict=True)
        return OnnxState(
            [np.concatenate(of_all, axis) for of_all, axis in zip(parts, axes, strict=True)], axes
        )

    def unstack(self) -> list[OnnxState]:
        """One state of batch size 1 for each stream."""
        pairs = list(zip(self.arrays, self.axes, strict=True))
        # Copies: views would keep the states of all streams alive.
        return [
            OnnxState([array.take([n], axis) for array, axis in pairs], self.axes)
            for n in range(self.arrays[0].shape[self.axes[0]])
        ]


class OnnxStreamingEncoder:
    """An exported encoder that gets chunks; takes the place of a `ConformerEncoder`.

    Args:
        file: with the metadata of a streaming encoder or CTC model.

    Attributes:
        chunk_size, left_context: of the export, frames of 40 ms.
        window: frames of 10 ms of a call.
    """

    causal = True

    def __init__(self, file: OnnxFile) -> None:
        self._file = file
        metadata = file.metadata
        self.window = int(metadata["T"])
        self.chunk_size = int(metadata["decode_chunk_len"]) // SUBSAMPLING
        left = "left_context" if "left_context" in metadata else "left_context_len"
        self.left_context = int(metadata[left])
        self.input_dim = int(file.inputs[0].shape[2])
        self._states = file.inputs[1:]
        self._axes = [state.shape.index(BATCH) for state in self._states]
        self._like = torch.zeros(0)
        self._counts = metadata["model_type"] == "conformer"  # and returns no count

    def parameters(self) -> Iterator[Tensor]:
        """One, for its type and device."""
        return iter([self._like])

    def initial_state(self, batch_size: int, left_context: int) -> OnnxState:
        """State of new streams.

        Raises:
            ValueError: the export has another left context.
        """
        if left_context != self.left_context:
            raise ValueError(f"the export has a left context of {self.left_context} frames")
        arrays = [
            np.zeros(
                [batch_size if size == BATCH else size for size in state.shape],
                np.int64 if state.type == "tensor(int64)" else np.float32,
            )
            for state in self._states
        ]
        return OnnxState(arrays, self._axes)

    def stream(
        self, features: Tensor, state: OnnxState, chunk_size: int, lens: Tensor | None = None
    ) -> tuple[Tensor, OnnxState]:
        """See `ConformerEncoder.stream`; from a stream's end on, there is silence in its chunk.

        Raises:
            ValueError: the export has another chunk size.
        """
        if chunk_size != self.chunk_size:
            raise ValueError(f"the export has chunks of {self.chunk_size} frames")
        if lens is not None:
            ended = torch.arange(features.size(1)) >= lens.unsqueeze(1)
            features = features.masked_fill(ended.unsqueeze(2), DIGITAL_SILENCE)
        out, *arrays = self._file.run(features.contiguous().numpy(), *state.arrays)
        if self._counts:
            arrays.append(state.arrays[-1] + SUBSAMPLING * chunk_size)
        return torch.from_numpy(out), OnnxState(arrays, self._axes)
