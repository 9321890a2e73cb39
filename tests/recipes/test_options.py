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

    def run(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
        path = f"{folder}:{Path(shutil.which('bash')).parent}:/usr/bin:/bin"
        return subprocess.run(
            ["bash", str(ROOT / "run.sh"), *arguments],
            capture_output=True,
            text=True,
            env={"PATH": path, "HOME": str(tmp_path)},
            cwd=cwd,
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
        (["--training.num_epochs", "abc"], "training.num_epochs is 'abc'; allowed: a whole number"),
        (["--training.num-epochs=0"], "training.num_epochs is 0"),
        (["--speed-perturb", "1"], "--speed-perturb takes yes or no"),
        (["--musan", "maybe"], "--musan takes yes or no"),
        (["--on-the-fly"], "--on-the-fly needs a value"),
        (["--vocab-size", "many"], "--vocab-size takes a number"),
        (["--max-seconds", "1.2.3"], "--max-seconds takes a number"),
    ],
)
def test_wrong_options_stop_with_the_remedy_before_any_install(bare, arguments, named):
    result = bare(*arguments)
    assert result.returncode == 2
    assert named in result.stderr
    assert "remedy:" in result.stderr
    assert "installing" not in result.stdout


def test_an_old_python_is_told_in_words(bare, tmp_path):
    python = tmp_path / "bin" / "python3"
    python.write_text(
        "#!/bin/sh\n"
        'case "$1" in --version) echo Python 3.8.10 ;; -c) exit 1 ;; '
        "*) echo Traceback >&2; exit 1 ;; esac\n"
    )
    for arguments in ([], ["--help-config"]):
        result = bare(*arguments)
        assert result.returncode == 2
        assert "Python 3.8.10 is too old" in result.stderr
        assert "Traceback" not in result.stderr


@pytest.fixture
def commands(bare, tmp_path):
    """Run stages whose programs do nothing; returns what is printed, the commands among it."""
    python = tmp_path / "bin" / "python"
    python.write_text(
        "#!/bin/sh\n"
        'case "$1" in -c) exit 1 ;; local/teaching.py) echo teacher_experiment= ;; esac\n'
    )
    python.chmod(0o755)

    def run(*arguments: str, cwd: Path = ROOT) -> str:
        result = bare("--recipe", "egs/mini_librispeech", "--no-install", *arguments, cwd=cwd)
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run


def test_options_reach_the_programs(commands):
    stages = ["--stage", "0", "--stop-stage", "3"]
    options = ["--max-seconds", "18.5", "--vocab-size=77", "--on-the-fly", "yes"]
    printed = commands(*stages, *options, "--speed_perturb", "no", "--musan", "yes")
    assert "--max-seconds 18.5" in printed
    assert "--vocab-size 77" in printed
    assert "--on-the-fly" in printed
    assert "--speed-perturb" not in printed
    assert "--corpus musan" in printed and "--musan-dir data/mini_librispeech/corpus" in printed
    printed = commands(*stages)
    assert "--max-seconds 40" in printed
    assert "--vocab-size 64" in printed
    assert "--speed-perturb" in printed
    assert "--on-the-fly" not in printed and "musan" not in printed


def test_musan_on_disk_is_used_unless_refused(commands, tmp_path):
    stages = ["--stage", "0", "--stop-stage", "2", "--musan-dir", str(tmp_path)]
    printed = commands(*stages)
    assert "--corpus musan" not in printed
    assert f"--musan-dir {tmp_path}" in printed and printed.rstrip().endswith("--musan")
    assert "musan" not in commands(*stages, "--musan", "no").replace(str(tmp_path), "")


def test_paths_are_those_of_the_users_folder(commands, tmp_path):
    for name in ("corpus", "teacher"):
        (tmp_path / name).mkdir()
    options = ["--corpus-dir", "corpus", "--data-dir", "d", "--exp-dir", "e"]
    printed = commands("--stage", "1", "--stop-stage", "1", *options, cwd=tmp_path)
    assert f"--corpus-dir {tmp_path}/corpus" in printed
    assert f"--data-dir {tmp_path}/d " in printed
    options += ["--exp", "mvq", "--distillation.quantizer", "q.pt"]
    options += ["--distillation.teacher", "hf:teacher?position_directions=10"]
    printed = commands("--stage", "8", "--stop-stage", "8", *options, cwd=tmp_path)
    assert f"--exp-dir {tmp_path}/e/mvq" in printed
    assert f"--distillation.quantizer {tmp_path}/q.pt" in printed
    assert f"--distillation.teacher 'hf:{tmp_path}/teacher?position_directions=10'" in printed
    printed = commands(
        "--stage", "8", "--stop-stage", "8", *options[:-1], "mvqkd:teacher", cwd=tmp_path
    )
    assert "--distillation.teacher mvqkd:teacher" in printed  # an experiment of the recipe
    # As they were, where they need no change.
    printed = commands("--stage", "8", "--stop-stage", "8", "--data-dir", "d")
    assert "--data-dir d " in printed


def test_remedies_name_the_options_of_the_run(commands, tmp_path):
    python = tmp_path / "bin" / "python"
    python.write_text('#!/bin/sh\necho "$MVQKD_RUN"\n')
    options = ["--data-dir=my data", "--strict", "--model.num-layers", "3"]
    printed = commands("--stage", "1", *options, "--stop-stage", "1")
    expected = r"--recipe egs/mini_librispeech --no-install --data-dir my\ data --strict"
    assert f"{ROOT}/run.sh {expected} --model.num-layers 3\n" in printed
