"""Work on large amounts of audio, in shards that processes share and that survive a kill.

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
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from mvqkd.errors import UserError
from mvqkd.storage.files import make_folder
from mvqkd.storage.locks import own_folder
from mvqkd.storage.ragged import shard_path

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
            remedy=f"take {torch.cuda.device_count()} processes a machine",
            parameters=("world_size",),
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


def divide_splits(
    splits: Mapping[str, Sequence[int]], seconds: NDArray[np.float64], hours: float
) -> tuple[list[Sequence[int]], list[str]]:
    """Divide the cuts of each split separately, so that a new split changes no shard of the others.

    Args:
        splits: name -> numbers of its cuts.
        seconds: durations of all cuts.
        hours: of a shard.

    Returns:
        The shards, and the split of each.
    """
    divided = {name: divide(numbers, seconds, hours) for name, numbers in splits.items()}
    shards = [shard for found in divided.values() for shard in found]
    return shards, [name for name, found in divided.items() for _ in found]


def prepare_folder(folder: Path, names: Sequence[str], ending: str = "h5") -> list[Path]:
    """Paths of the shards in a folder.

    Args:
        folder: is made; shards of other names in it are left alone.
        names: of each shard, those of one name one after the other.
        ending: of the files, without a full stop.

    Raises:
        UserError: the folder has shards of one of the names, of a run that divided it otherwise.
    """
    make_folder(folder)
    counts = Counter(names)
    paths = [
        shard_path(folder, name, index, count, ending)
        for name, count in counts.items()
        for index in range(count)
    ]
    for name, count in counts.items():
        number = "[0-9]" * 5
        pattern = f"{glob.escape(name)}-{number}-of-{number}.{ending}"
        if foreign := set(folder.glob(pattern)).difference(paths):
            raise UserError(
                f"{folder} has {min(foreign).name}, which is none of the {count} shards of this "
                "run: the cuts have changed",
                remedy=f"move {folder}/{name}-* away, or name another folder",
                parameters=("output",),
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
    are. Until then it keeps other runs out of the files' folders.

    Args:
        shards: numbers of cuts.
        seconds: durations of all cuts.
        files: shard -> the files it is done with.
        check: raises UserError if a shard that is there is not what `make` would write.
        make: (shard, tick): write it; call tick(number of the cut) after each utterance.

    Raises:
        UserError: another run is at work in one of the folders.
    """
    rank, size, _ = worker()
    mine = range(rank, len(shards), size)
    every = [path for index in range(len(shards)) for path in files(index)]
    # The process of rank 0 holds the folders for all, and none where nothing is to be written: that
    # may be another's, who lets us read it.
    writes = rank == 0 and not all(map(Path.is_file, every))
    with ExitStack() as stack:
        for folder in sorted({path.parent for path in every}) if writes else []:
            stack.enter_context(own_folder(folder, work="run", wait=False))
        if writes:
            # Of its own shards alone: other processes may have begun with theirs.
            _remove_partial([path for index in mine for path in files(index)])
        missing = []
        for index in mine:
            if all(path.is_file() for path in files(index)):
                check(index)
            else:
                missing.append(index)
        if len(missing) < len(mine):
            logging.info("%d of %d shards were done before", len(mine) - len(missing), len(mine))
        _make(missing, shards, seconds, make)
        if rank == 0:
            _wait_for([files(index) for index in range(len(shards))])
        if writes:
            _remove_partial(every)  # now nobody writes any


def _make(
    missing: Sequence[int],
    shards: Sequence[Sequence[int]],
    seconds: NDArray[np.float64],
    make: Callable[[int, Tick], None],
) -> None:
    """Make shards, with a bar on the process of rank 0."""
    rank, size, _ = worker()
    hours = sum(float(seconds[number]) for index in missing for number in shards[index]) / 3600
    begin = time.monotonic()
    with tqdm(total=hours, bar_format=_BAR, disable=rank != 0) as bar:

        def tick(number: int) -> None:
            # Rounding may carry the sum beyond the total.
            bar.update(min(float(seconds[number]) / 3600, hours - bar.n))

        for index in missing:
            make(index, tick)
    took = time.monotonic() - begin
    if missing:
        logging.info(
            "%.2f h of audio in %.0f s: %.1f x real time in each of %d processes",
            hours,
            took,
            hours / took * 3600,
            size,
        )


def _remove_partial(paths: Sequence[Path]) -> None:
    """Remove what a run that was killed has left of these files."""
    wanted = set(paths)
    for folder in {path.parent for path in paths}:
        for partial in folder.glob(".tmp-*-*"):  # .tmp-<process>-<name of the file>
            if partial.with_name(partial.name.split("-", 2)[2]) in wanted:
                partial.unlink(missing_ok=True)


def _wait_for(shards: Sequence[Sequence[Path]]) -> None:
    # By polling for files, not by a barrier: shards may take longer than any timeout of a
    # collective. If a process dies, torchrun ends this one too.
    waiting = _unfinished(shards)
    if waiting:
        # With a stale RANK in the environment, this process waits for others that do not exist.
        logging.info(
            "waiting for %d shards of other processes (in the environment: RANK=%s, WORLD_SIZE=%s)",
            len(waiting),
            os.environ.get("RANK"),
            os.environ.get("WORLD_SIZE"),
        )
    while waiting:
        time.sleep(1.0)
        waiting = _unfinished(waiting)


def _unfinished(shards: Sequence[Sequence[Path]]) -> list[Sequence[Path]]:
    return [paths for paths in shards if not all(path.is_file() for path in paths)]
