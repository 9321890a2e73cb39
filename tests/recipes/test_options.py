"""run.sh before anything is installed: a bare PATH and a Python without packages."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bare(tmp_path):
    """Run run.sh with `python3 -S` first on PATH, so that no installed package can be imported."""
    folder = tmp_path / "bin"
    folder.mkdir()
    python = folder / "python3"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    python.chmod(0o755)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        path = f"{folder}:{Path(shutil.which('bash')).parent}:/usr/bin:/bin"
        return subprocess.run(
            ["bash", str(ROOT / "run.sh"), *arguments],
            capture_output=True,
            text=True,
            env={"PATH": path, "HOME": str(tmp_path)},
            timeout=60,
        )

    return run


def test_help_lists_recipes_stages_and_options(bare):
    result = bare("--help")
    assert result.returncode == 0
    for word in ["egs/mini", "egs/mini_librispeech", "egs/librispeech", "features", "--stop-stage"]:
        assert word in result.stdout


def test_help_config_lists_every_field(bare):
    result = bare("--help-config")
    assert result.returncode == 0
    assert "--model.num_layers (default 12)" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--foo", "1"], "--foo"),
        (["stage"], "stage"),
        (["--stage"], "--stage"),
        (["--stage", "two"], "--stage"),
        (["--stage", "99"], "99"),
        (["--recipe", "egs/none"], "egs/none"),
        (["--exp", "none"], "none.yaml"),
        (["--variant", "../x"], "../x"),
        (["--corpus-dir", "/nowhere/at/all"], "/nowhere/at/all"),
        (["--model.num_layer", "4"], "did you mean --model.num_layers"),
    ],
)
def test_wrong_options_stop_with_the_remedy_before_any_install(bare, arguments, named):
    result = bare(*arguments)
    assert result.returncode == 2
    assert named in result.stderr
    assert "remedy:" in result.stderr
    assert "installing" not in result.stdout
