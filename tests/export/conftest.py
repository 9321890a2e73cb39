from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PROGRAM = Path(__file__).with_name("sherpa_program.py")


@pytest.fixture
def sherpa(tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Decodes waves in a process of its own."""
    pytest.importorskip("sherpa_onnx")

    def decode(
        recognizer: str,
        waves: list[np.ndarray],
        files: Mapping[str, Path],
        *,
        constructor: str = "from_transducer",
        together: bool = True,
        tail: int = 0,
        hotwords: str = "",
        **options: Any,
    ) -> list[dict[str, Any]]:
        paths = []
        for n, wave in enumerate(waves):
            paths.append(tmp_path / f"{n}.npy")
            np.save(paths[-1], wave)
        named = {("model" if name == "ctc" else name): str(path) for name, path in files.items()}
        job = {
            **{"recognizer": recognizer, "constructor": constructor, "together": together},
            **{"waves": [str(path) for path in paths], "tail": tail, "hotwords": hotwords},
            "options": {**named, "num_threads": 1, **options},
        }
        done = subprocess.run(
            [sys.executable, str(PROGRAM)], input=json.dumps(job), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout)

    return decode
