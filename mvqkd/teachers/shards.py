"""Work on many hours of audio, divided into shards that processes share and that survive a kill.

A shard's contents depend on the manifest alone, so that a run that was killed goes on with any
number of processes. A process takes the shards with its rank; a shard's files appear when they are
whole.
"""

from __future__ import annotations

import glob
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from mvqkd.data.ragged import shard_path
from mvqkd.errors import UserError

Tick = Callable[[int], None]


_BAR = "{percentage:3.0f}%|{bar}| {n:.2f}/{total:.2f} h [{elapsed}<{remaining}]"


def worker() -> tuple[int, int, torch.device]:
    """Rank, number of processes, and device of this process, as torchrun says; else 0, 1.

    Raises:
        UserError: there are GPUs, but fewer than processes.
    """
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if not torch.cuda.is_available():
        return rank, size, torch.device("cpu")
    if local >= torch.cuda.device_count():
        raise UserError(
            f"process {local} of this machine has no GPU of its own",
            remedy=f"torchrun --nproc-per-node {torch.cuda.device_count()}",
        )
    torch.cuda.set_device(local)
    return rank, size, torch.device("cuda", local)


def divide(
    numbers: Sequence[int], seconds: NDArray[np.float64], hours: float
) -> list[Sequence[int]]:
    """Divide cuts, in their order, into shards of about `hours`.

    Args:
        numbers: of the cuts.
        seconds: durations of all cuts.
        hours: of a shard; it ends with the cut that reaches them.
    """
    shards: list[list[int]] = []
    filled = np.inf
    for number in numbers:
        if filled >= 3600 * hours:
            shards.append([])
            filled = 0.0
        shards[-1].append(number)
        filled += float(seconds[number])
    return [*shards]


def divide_parts(
    parts: Mapping[str, range], seconds: NDArray[np.float64], hours: float
) -> tuple[list[Sequence[int]], list[str]]:
    """Divide the cuts of each part on its own, so that a new part changes no shard of the others.

    Args:
        parts: name -> numbers of its cuts.
        seconds: durations of all cuts.
        hours: of a shard.

    Returns:
        The shards, and the part of each.
    """
    divided = {name: divide(numbers, seconds, hours) for name, numbers in parts.items()}
    shards = [shard for found in divided.values() for shard in found]
    return shards, [name for name, found in divided.items() for _ in found]


def prepare_folder(folder: Path, names: Sequence[str]) -> list[Path]:
    """Paths of the shards in a folder.

    Args:
        folder: is made; shards of other names in it are left alone.
        names: of each shard, those of one name one after the other.

    Raises:
        UserError: the folder has shards of one of the names, of a run that divided it otherwise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    counts = Counter(names)
    paths = [
        shard_path(folder, name, index, count)
        for name, count in counts.items()
        for index in range(count)
    ]
    for name, count in counts.items():
        number = "[0-9]" * 5
        pattern = f"{glob.escape(name)}-{number}-of-{number}.h5"
        if foreign := set(folder.glob(pattern)).difference(paths):
            raise UserError(
                f"{folder} has {min(foreign).name}, which is none of the {count} shards of this "
                "run: the cuts have changed",
                remedy=f"remove {folder}/{name}-*, or give another --output",
            )
    return paths


def process_shards(
    shards: Sequence[Sequence[int]],
    seconds: NDArray[np.float64],
    *,
    files: Callable[[int], Sequence[Path]],
    check: Callable[[int], None],
    make: Callable[[int, Tick], None],
) -> None:
    """Make the shards of this process that are not there; the process of rank 0 returns when all
    are.

    Args:
        shards: numbers of cuts.
        seconds: durations of all cuts.
        files: shard -> the files it is done with.
        check: raises UserError if a shard that is there is not what `make` would write.
        make: (shard, tick): write it; call tick(number of the cut) after each utterance.
    """
    rank, size, _ = worker()
    mine = range(rank, len(shards), size)
    missing = []
    for index in mine:
        if all(path.is_file() for path in files(index)):
            check(index)
        else:
            missing.append(index)
    if len(missing) < len(mine):
        logging.info("%d of %d shards were done before", len(mine) - len(missing), len(mine))
    hours = sum(float(seconds[number]) for index in missing for number in shards[index]) / 3600
    begin = time.monotonic()
    with tqdm(total=hours, bar_format=_BAR, disable=rank != 0) as bar:

        def tick(number: int) -> None:
            # Rounding may carry the sum beyond the total.
            bar.update(min(float(seconds[number]) / 3600, hours - bar.n))

        for index in missing:
            for path in files(index):
                for partial in path.parent.glob(f".tmp-*-{path.name}"):
                    partial.unlink()  # of a run that was killed
            make(index, tick)
    took = time.monotonic() - begin
    if missing:
        logging.info(
            "%.2f h of audio in %.0f s: %.1f h of audio an hour in each of %d processes",
            hours,
            took,
            hours / took * 3600,
            size,
        )
    if rank == 0:
        _wait_for([path for index in range(len(shards)) for path in files(index)])


def _wait_for(paths: Sequence[Path]) -> None:
    # Files tell it, not a barrier: shards may take longer than any timeout of a collective. A
    # process that died takes this one with it, for torchrun ends all.
    waiting = [path for path in paths if not path.is_file()]
    while waiting:
        time.sleep(1.0)
        waiting = [path for path in waiting if not path.is_file()]
