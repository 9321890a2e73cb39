from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import pytest

import mvqkd
from mvqkd.runtime.compiled import compiled


def test_compiles_without_a_cache_where_no_folder_can_be_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def njit(**options: object) -> object:
        if options.pop("cache", False):
            raise RuntimeError("cannot cache function: no locator available")
        assert options == {"nogil": True}
        return lambda function: function

    monkeypatch.setattr(numba, "njit", njit)
    assert compiled(nogil=True)(max) is max


@pytest.mark.slow
def test_a_quantizer_is_fitted_without_any_cache_folder(tmp_path: Path) -> None:
    """The package and the home are mounted read-only: here, files stand where folders would be."""
    package = tmp_path / "package" / "mvqkd"
    shutil.copytree(Path(mvqkd.__file__).parent, package, ignore=shutil.ignore_patterns("__pyc*"))
    for folder in [package / "quantization", package / "losses"]:
        (folder / "__pycache__").touch()
    (tmp_path / "home").touch()
    program = "import torch, mvqkd\nfrom mvqkd.quantization import Quantizer\n"
    program += "x = torch.randn(400, 4)\n"
    program += "q = Quantizer.fit(x, num_codebooks=2, codebook_size=4, num_steps=2)\n"
    program += "print(mvqkd.__file__, q.encode(x).shape)"
    home = str(tmp_path / "home")
    environment = {**os.environ, "HOME": home, "XDG_CACHE_HOME": home}
    environment |= {"PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("NUMBA_CACHE_DIR", None)
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(package)) and "[400, 2]" in done.stdout
