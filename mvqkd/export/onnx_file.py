"""A file in onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from mvqkd.errors import UserError


class OnnxFile:
    """A file in onnxruntime, called with tensors by position.

    Args:
        path: of the file.
        num_threads: that it may use.

    Raises:
        UserError: it is missing, or onnxruntime does not take it.
    """

    def __init__(self, path: Path, *, num_threads: int = 1) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise UserError(
                f"{path} needs onnxruntime", remedy='pip install "mvqkd[onnx]"'
            ) from None
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
        self._names = [entry.name for entry in self.inputs]
        self._outputs = [entry.name for entry in self._session.get_outputs()]
        self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map

    def __call__(self, *tensors: Tensor) -> list[Tensor]:
        """Outputs of inputs."""
        return [torch.from_numpy(out) for out in self.run(*(each.numpy() for each in tensors))]

    def run(self, *arrays: NDArray[Any]) -> list[NDArray[Any]]:
        """Outputs of inputs, which are contiguous."""
        found: list[NDArray[Any]] = self._session.run(
            self._outputs, dict(zip(self._names, arrays, strict=True))
        )
        return found
