"""The tensors in what loaders yield, however they are nested."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def map_tensors(value: T, change: Callable[[Tensor], Tensor]) -> T:
    """A copy of a dataclass, dictionary, list or tensor with `change` made to each tensor in it;
    what is neither stays as it is."""
    mapped: Any = value
    if isinstance(value, Tensor):
        mapped = change(value)
    elif isinstance(value, dict):
        mapped = {key: map_tensors(item, change) for key, item in value.items()}
    elif isinstance(value, list) and value and not isinstance(value[0], (int, str)):
        mapped = [map_tensors(item, change) for item in value]
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            field.name: map_tensors(getattr(value, field.name), change)
            for field in dataclasses.fields(value)
        }
        mapped = dataclasses.replace(value, **fields)
    return mapped


def to_device(value: T, device: torch.device | str, *, non_blocking: bool = True) -> T:
    """A copy whose tensors are on `device`."""
    return map_tensors(value, lambda x: x.to(device, non_blocking=non_blocking))


def pin_memory(value: T) -> T:
    """A copy in page-locked memory, from which `to_device` copies to a GPU in the background."""
    return map_tensors(value, Tensor.pin_memory)
