"""Audio in NIST's SPHERE files, as the LDC distributes it, and in others."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from pathlib import Path

import lhotse  # noqa: F401  puts the folder of its tools on PATH
import numpy as np
import soundfile
from numpy.typing import NDArray

from mvqkd.errors import UserError

_HEADER = 1024
_SHORTEN = re.compile(rb"sample_coding -s\d+ \S*shorten")
_COUNT = re.compile(rb"sample_count -i (\d+)")


def read_sphere(path: Path) -> tuple[NDArray[np.int16], int]:
    """Samples (S,) of the first channel and their rate in Hz.

    SPHERE files that are compressed with shorten are decoded by `sph2pipe`, all others, WAV and
    FLAC among them, by libsndfile.

    Raises:
        UserError: the file is damaged or cut off, or `sph2pipe` is needed and not installed.
    """
    with open(path, "rb") as file:
        header = file.read(_HEADER)
    source: Path | io.BytesIO = path
    if header.startswith(b"NIST_1A") and _SHORTEN.search(header):
        source = io.BytesIO(_decode(path))
    try:
        samples, rate = soundfile.read(source, dtype="int16", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise UserError(f"{path} cannot be read: {error}", remedy="restore the corpus") from error
    promised = _COUNT.search(header) if header.startswith(b"NIST_1A") else None
    if promised and len(samples) != int(promised[1]):
        raise UserError(
            f"{path} has {len(samples)} samples, its header says {int(promised[1])}",
            remedy="restore the corpus",
        )
    return samples[:, 0], rate


def _decode(path: Path) -> bytes:
    """A WAV file of the first channel."""
    program = shutil.which("sph2pipe")
    if program is None:
        raise UserError(
            f"{path} is compressed with shorten, which sph2pipe decodes: it is not installed",
            remedy="`lhotse install-sph2pipe` builds it, or put another build on PATH",
        )
    command = [program, "-f", "wav", "-p", "-c", "1", str(path)]
    found = subprocess.run(command, capture_output=True, check=False)
    if found.returncode:
        reason = found.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise UserError(f"{path}: sph2pipe fails: {reason[-1]}", remedy="restore the corpus")
    return found.stdout
