"""Speech from espeak-ng, through the shared library that the wheel `espeakng-loader` brings."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from mvqkd.errors import UserError

_SERVER = Path(__file__).with_name("espeak_server.py")


@dataclass(frozen=True)
class Line:
    """What is said and how: `rate` in words per minute (80 to 450), `pitch` and `range` 0 to 99."""

    text: str
    voice: str
    rate: int = 175
    pitch: int = 50
    range: int = 50


class Espeak:
    """A synthesizer in a process of its own, which ends with the `with` block or with this process.

    espeak-ng is not thread-safe: use one `Espeak` for each thread.

    Raises:
        UserError: the wheel is not installed.
    """

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError as error:
            raise UserError(
                "the synthetic corpus needs espeak-ng, and the package espeakng-loader is missing",
                remedy="pip install 'mvqkd[mini]'",
            ) from error
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-I", "-S", str(_SERVER)),
                *(espeakng_loader.get_library_path(), espeakng_loader.get_data_path()),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> Espeak:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()  # closes the pipes and waits

    def speak(self, lines: Sequence[Line], seed: int) -> tuple[int, list[NDArray[np.int16]]]:
        """Return the sampling rate (Hz) and the samples of each line, functions of the arguments
        alone.

        Args:
            lines: spoken one after the other.
            seed: of the breath and roughness of the voices; 0 to 2^31 - 1.

        Raises:
            UserError: espeak-ng does not load, has no such voice or fails.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        request = {"seed": seed, "lines": [astuple(line) for line in lines]}
        try:
            stdin.write(json.dumps(request).encode() + b"\n")
            stdin.flush()
            answer = json.loads(stdout.readline() or '{"error": "espeak-ng does not start"}')
        except BrokenPipeError:
            answer = {"error": "espeak-ng does not start"}
        if "error" in answer:
            raise UserError(answer["error"], remedy="pip install --force-reinstall 'mvqkd[mini]'")
        spoken = [np.frombuffer(stdout.read(size), dtype=np.int16) for size in answer["sizes"]]
        return answer["rate"], spoken
