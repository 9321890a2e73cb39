"""What worker processes of a `DataLoader` make, with their failures in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import torch
from torch.utils.data import DataLoader

from mvqkd.errors import UserError
from mvqkd.runtime.tensors import map_tensors

T = TypeVar("T")

_MEMORY_REMEDY = (
    "give the container more shared memory (docker's shm-size), or read without worker processes, "
    "which is slower"
)


def shared(value: T) -> T:
    """What a worker has made, in memory that its parent can see; in no worker: the value itself.

    torch would do the same in a thread of the worker, where an error is lost and the parent waits
    for ever.

    Raises:
        UserError: there is not enough shared memory.
    """
    if torch.utils.data.get_worker_info() is None:
        return value
    try:
        return map_tensors(value, lambda x: x.share_memory_() if x.numel() else x)
    except RuntimeError as error:
        if "shared memory" not in str(error) and "No space left" not in str(error):
            raise
        raise UserError(
            "shared memory (/dev/shm) is full", remedy=_MEMORY_REMEDY, parameters=("num_workers",)
        ) from None


def items_of(loader: DataLoader[T | UserError]) -> Iterator[T]:
    """The items of a loader. Its dataset returns an error rather than raising it, since the loader
    would bury the message in a worker's traceback.

    Raises:
        UserError: what the dataset returned; or a worker was killed.
    """
    items = iter(loader)
    while True:
        try:
            item = next(items)
        except StopIteration:
            return
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise UserError(
                f"a process that reads data has ended: {' '.join(str(error).split())}",
                remedy="if memory ran out, take fewer of these processes or smaller batches; if "
                f"shared memory did, {_MEMORY_REMEDY}",
                parameters=("num_workers",),
            ) from None
        if isinstance(item, UserError):
            raise item
        yield item
