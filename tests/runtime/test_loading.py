from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from mvqkd.errors import UserError
from mvqkd.runtime.loading import items_of, shared
from mvqkd.runtime.tensors import map_tensors, to_device


@dataclass
class Nested:
    x: torch.Tensor
    names: list[str] = field(default_factory=lambda: ["a"])
    more: dict[str, Nested] = field(default_factory=dict)
    nothing: torch.Tensor | None = None


def test_tensors_are_found_however_they_are_nested():
    value = [Nested(torch.ones(2), more={"inner": Nested(torch.zeros(0))})]
    changed = map_tensors(value, lambda x: x + 1)
    assert changed[0].x.tolist() == [2, 2] and value[0].x.tolist() == [1, 1]
    assert changed[0].more["inner"].x.shape == (0,)
    assert changed[0].names == ["a"] and changed[0].nothing is None
    assert to_device(value, "meta")[0].more["inner"].x.device.type == "meta"


class _Items(Dataset):
    """Item 2 is an error; item 3 kills the process that makes it."""

    def __init__(self, last: int) -> None:
        self.last = last

    def __len__(self) -> int:
        return self.last

    def __getitem__(self, index: int) -> list[Nested] | UserError:
        if index == 2:
            return UserError("item 2 is bad")
        if index == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return shared([Nested(torch.full((3,), float(index)))])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_items_come_and_errors_are_raised(num_workers):
    loader = DataLoader(_Items(3), batch_size=None, num_workers=num_workers)
    items = items_of(loader)
    assert [next(items)[0].x.tolist() for _ in range(2)] == [[0.0] * 3, [1.0] * 3]
    with pytest.raises(UserError, match="item 2 is bad"):
        next(items)


def test_a_killed_worker_is_reported():
    loader = DataLoader(_Items(4), batch_size=None, num_workers=1, sampler=[0, 3])
    with pytest.raises(UserError, match="a process that reads data has ended") as error:
        list(items_of(loader))
    assert "num_workers" in error.value.parameters


SMALL = """
import torch
from torch.utils.data import DataLoader, Dataset
from mvqkd.errors import UserError
from mvqkd.runtime.loading import items_of, shared

class Large(Dataset):
    def __len__(self):
        return 20
    def __getitem__(self, index):
        try:
            return shared([torch.ones(300_000)])
        except UserError as error:
            return error

loader = DataLoader(Large(), batch_size=None, num_workers=1, prefetch_factor=8)
try:
    kept = list(items_of(loader))
except UserError as error:
    print(error)
"""


@pytest.mark.slow
def test_too_little_shared_memory_is_reported():
    """As in a container, whose /dev/shm has 64 MB: here 4, in a mount namespace of our own."""
    mount = "mount -t tmpfs -o size=4m tmpfs /dev/shm"
    command = ["unshare", "-m", "sh", "-c"]
    try:
        subprocess.run([*command, mount], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no permission to mount in a namespace")
    program = f'{mount} && exec "{sys.executable}" -c "$0"'
    done = subprocess.run(
        [*command, program, SMALL], capture_output=True, text=True, timeout=100, check=True
    )
    assert done.stdout.startswith("shared memory (/dev/shm) is full"), done.stderr
    assert "shm-size" in done.stdout
