"""One or many processes: torchrun's environment, devices, and the few collectives that are needed.

Control values (counts, flags, sums for the log) travel as float64 on the CPU over gloo, so that no
step waits for the GPU because of them; gradients travel by DDP over nccl on GPUs, gloo on CPUs.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from mvqkd.errors import UserError

# Longer than any validation or checkpoint of one rank; a rank that died is noticed by torchrun.
_TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True)
class World:
    """This process among all processes of a training; alone by default."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums over all processes; every process must call it, and gets the same numbers."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, in order of rank; every process must call it.

        For rare events: the values are pickled.
        """
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.size > 1:
            self.sum([0.0])


@contextmanager
def start_world(device: str | None = None) -> Iterator[World]:
    """Join the processes that torchrun started, or be alone.

    Args:
        device: `cpu` or `cuda`; None: `cuda` where there is a GPU. Each process of a machine takes
            the GPU of its local rank.

    Raises:
        UserError: there are more processes on this machine than GPUs.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise UserError(
                f"process {local_rank + 1} of this machine has no GPU: there are "
                f"{torch.cuda.device_count()}",
                remedy=f"take {torch.cuda.device_count()} processes a machine or less, or the CPU",
                parameters=("world_size", "device"),
            )
        chosen = torch.device("cuda", local_rank)
        torch.cuda.set_device(chosen)
    else:
        chosen = torch.device("cpu")
        _prepare_cpu()
    if size == 1:
        yield World(device=chosen)
        return
    _end_with_launcher()
    backend = "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=_TIMEOUT, device_id=chosen if kind == "cuda" else None)
    try:
        yield World(rank=dist.get_rank(), size=size, device=chosen)
    except SystemExit:  # which all processes came to together
        dist.destroy_process_group()
        raise
    # Not after another exception: nccl ends a group together, and the processes that wait in a
    # collective for this one would never come. It leaves at once instead, see `run_program`.
    dist.destroy_process_group()


def _end_with_launcher() -> None:
    """Have the kernel kill this process when torchrun is killed.

    torchrun starts its processes in sessions of their own: they would train on, unseen.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or sys.platform != "linux":
        return
    launcher = os.getppid()
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG of linux/prctl.h
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != launcher:  # killed before the kernel was asked
        os.kill(os.getpid(), signal.SIGKILL)


def _prepare_cpu() -> None:
    """Share the cores among the processes of this machine, and flush denormals.

    torchrun gives each process one thread unless OMP_NUM_THREADS says otherwise. Denormals, which
    softmax and Adam's moments produce, are tens of times slower than other numbers on x86; the mode
    is inherited by threads that start later, so it is set before any work.
    """
    torch.set_flush_denormal(True)
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if local_size > 1 and os.environ.get("OMP_NUM_THREADS", "1") == "1":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        torch.set_num_threads(max(1, (cores or 1) // local_size))
