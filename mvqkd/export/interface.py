"""What a recognizer of sherpa-onnx takes a file for: tensors in their order, and metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

EXPORT = "export.json"
"""What a model folder says of its files."""
BATCH = "N"
"""Name of the batch axis; every tensor has one, and it is dynamic."""


class TensorSpec(NamedTuple):
    """An input or output. sherpa-onnx binds tensors by position; names are icefall's."""

    name: str
    shape: tuple[int | str, ...]
    """A text names a dynamic axis."""
    dtype: torch.dtype = torch.float32

    @property
    def dynamic_axes(self) -> dict[int, str]:
        """Names of the dynamic axes."""
        return {axis: size for axis, size in enumerate(self.shape) if isinstance(size, str)}

    def example(self, sizes: Mapping[str, int]) -> Tensor:
        """Zeros, with these sizes of the dynamic axes."""
        shape = [sizes[size] if isinstance(size, str) else size for size in self.shape]
        return torch.zeros(shape, dtype=self.dtype)


@dataclass(frozen=True)
class Interface:
    """Of one file."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    metadata: dict[str, str] = field(default_factory=dict)
    """sherpa-onnx ends the process without an exception when a key that it reads is missing."""


class Graph(nn.Module):
    """A module whose forward pass is one file."""

    interface: Interface

    def example(self, batch_size: int = 2) -> tuple[Tensor, ...]:
        """Inputs to trace the graph with."""
        raise NotImplementedError
