"""Noises as cuts, whose features are mixed into those of speech."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from lhotse import MonoCut, Recording

from mvqkd.errors import UserError
from mvqkd.storage.jsonl import read_built


def noise_cuts(
    manifest_dir: Path, *, seconds: float = 10.0, shortest: float = 1.0
) -> list[MonoCut]:
    """MUSAN cut into windows, named `<recording>-<number>`.

    Args:
        manifest_dir: folder of `musan_recordings_*.jsonl.gz`.
        seconds: length of the windows.
        shortest: a shorter rest of a recording is left.

    Raises:
        UserError: there are no such manifests.
    """
    paths = sorted(manifest_dir.glob("musan_recordings_*.jsonl.gz"))
    if not paths:
        raise UserError(
            f"{manifest_dir}/musan_recordings_*.jsonl.gz are missing",
            step="manifests",
        )
    cuts = []
    for path in paths:
        for recording in read_built(path, Recording.from_dict):
            starts = np.arange(0.0, recording.duration, seconds)
            for number, start in enumerate(starts.tolist()):
                duration = min(seconds, recording.duration - start)
                if duration >= shortest:
                    channel = recording.channel_ids[0]
                    name = f"{recording.id}-{number}"
                    cuts.append(MonoCut(name, start, duration, channel, recording=recording))
    return cuts
