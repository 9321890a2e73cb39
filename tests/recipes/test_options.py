"""run.sh before anything is installed: a bare PATH and a Python without packages."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
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
    headings = [line for line in result.stdout.splitlines() if line and not line.startswith(" ")]
    assert len(headings) == len(set(headings)) and "distillation.layers.quantizer" in headings


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
        (["--model.num_layer", "4"], "did you mean model.num_layers"),
        (["--training.num_epochs", "abc"], "training.num_epochs is 'abc'; allowed: a whole number"),
        (["--training.num-epochs=0"], "training.num_epochs is '0'; allowed: 1 or more"),
        (["--speed-perturb", "1"], "--speed-perturb takes yes or no"),
        (["--musan", "maybe"], "--musan takes yes or no"),
        (["--text-normalization", "NFD"], "--text-normalization takes identity, nfc or nfkc"),
        (["--on-the-fly"], "--on-the-fly needs a value"),
        (["--features", "mfcc"], "--features takes fbank or spectrogram"),
        (["--vocab-size", "many"], "--vocab-size takes a number"),
        (["--max-seconds", "1.2.3"], "--max-seconds takes a number"),
        (["--max-seconds", "0.0"], "--max-seconds takes a number above 0"),
        (["--vocab-size", "1"], "--vocab-size takes a number from 4"),
        (["--stop-stage", "13"], "--stop-stage takes a number from 0 to 12"),
        (["--stage", "3", "--stop-stage", "2"], "--stage 3 comes after --stop-stage 2"),
        (["--nj", "0"], "--nj takes a number from 1"),
        (["--nj", "99999999999999999999"], "--nj takes a number from 1"),
        (["--world-size", "0"], "--world-size takes a number from 1"),
        (["--exp", ","], "--exp names no experiment"),
        (["--exp", ""], "--exp names no experiment"),
        (["--exp", "mvq", "--exp", "baseline"], "--exp is given twice"),
        (["--exp", "mvq,baseline,mvq"], "--exp names mvq twice"),
        (["--data.num_workers", "5000"], "data.num_workers is '5000'"),
        (["--training.seed", "99999999999999999999"], "training.seed"),
        (["--model.dim", "100000000"], "model.dim is '100000000'"),
    ],
)
def test_wrong_options_stop_with_the_remedy_before_any_install(bare, arguments, named):
    result = bare(*arguments)
    assert result.returncode == 2
    assert named in result.stderr
    assert "remedy:" in result.stderr
    assert "installing" not in result.stdout


def test_an_old_python_is_reported_in_words(bare, tmp_path):
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
        'case "$1" in -c) exit 1 ;; '
        'local/list_teachers.py) cat "$(dirname "$0")/learners" ;; esac\n'
    )
    python.chmod(0o755)
    (tmp_path / "bin" / "learners").touch()  # an experiment and its teacher, a line

    def run(*arguments: str, cwd: Path = ROOT) -> str:
        result = bare("--recipe", "egs/mini_librispeech", "--no-install", *arguments, cwd=cwd)
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run


def test_options_reach_the_programs(commands):
    stages = ["--stage", "0", "--stop-stage", "3"]
    options = ["--max-seconds", "18.5", "--vocab-size=77", "--on-the-fly", "yes"]
    options += ["--text-normalization", "nfc"]
    printed = commands(*stages, *options, "--speed_perturb", "no", "--musan", "yes")
    assert "--max-seconds 18.5" in printed
    assert "--text-normalization nfc" in printed
    assert "--vocab-size 77" in printed
    assert "--on-the-fly" in printed
    assert "--speed-perturb" not in printed
    assert "--corpus musan" in printed and "--musan-dir data/mini_librispeech/corpus" in printed
    printed = commands(*stages)
    assert "--max-seconds 40" in printed
    assert "--vocab-size 64" in printed
    assert "--speed-perturb" in printed
    assert "--on-the-fly" not in printed and "musan" not in printed
    assert "--text-normalization" not in printed and "--audio-root" not in printed


def test_a_number_may_begin_with_zero(commands):
    assert "--nj 8 " in commands("--stage", "01", "--stop-stage", "1", "--nj", "08") + " "


def test_experiments_are_checked_before_the_first_stage(commands, tmp_path):
    python = tmp_path / "bin" / "python"
    python.write_text('#!/bin/sh\ncase "$1" in local/list_teachers.py) exit 1 ;; esac\n')
    with pytest.raises(AssertionError):
        commands("--stage", "0", "--stop-stage", "1")


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
    assert f"--audio-root {tmp_path} " in printed  # of relative paths in manifests
    options += ["--exp", "mvq", "--distillation.codes.quantizer.file", "q.pt"]
    options += ["--distillation.embeddings.targets", "e", "--distillation.quantizer", "old.pt"]
    options += ["--data.replay", "[old, '/older/x']", "--data.extra_dev", "old"]
    options += ["--distillation.codes.teacher", "hf:teacher?position_directions=10"]
    printed = commands("--stage", "9", "--stop-stage", "9", *options, cwd=tmp_path)
    assert f"--exp-dir {tmp_path}/e/mvq" in printed
    assert f"--distillation.codes.quantizer.file {tmp_path}/q.pt" in printed
    assert f"--distillation.embeddings.targets {tmp_path}/e " in printed
    assert f"--distillation.quantizer {tmp_path}/old.pt" in printed
    assert f"--data.replay '[{tmp_path}/old, /older/x]'" in printed
    assert f"--data.extra_dev '[{tmp_path}/old]'" in printed
    assert f"--distillation.codes.teacher 'hf:{tmp_path}/teacher?position_directions=10'" in printed
    printed = commands(
        "--stage", "9", "--stop-stage", "9", *options[:-1], "mvqkd:teacher", cwd=tmp_path
    )
    assert "--distillation.codes.teacher mvqkd:teacher" in printed  # an experiment of the recipe
    options = [*options[:6], "--exp", "mvq", "--tokens-from"]
    stage = ["--stage", "3", "--stop-stage", "3"]
    for given, passed in (
        ("exp/a", f"{tmp_path}/exp/a"),
        ("hf:teacher", f"hf:{tmp_path}/teacher"),
        ("hf:owner/name", "hf:owner/name"),
    ):
        printed = commands(*stage, *options, given, cwd=tmp_path)
        assert f" --tokens-from {passed} " in printed
    # As they were, where they need no change.
    printed = commands("--stage", "9", "--stop-stage", "9", "--data-dir", "d")
    assert "--data-dir d " in printed


def test_splits_reach_the_programs(commands, bare, tmp_path):
    stages = ["--stage", "1", "--stop-stage", "3"]
    printed = commands(*stages)
    assert "--train-splits 'train*' --dev-splits 'dev*' --test-splits 'test*'" in printed
    assert "local/compute_fbank.py --data-dir data/mini_librispeech --nj" in printed  # as recorded
    printed = commands(*stages, "--train-splits", "a,b-*", "--dev-splits=c")
    for program in ("prepare_manifests", "compute_fbank", "prepare_lang"):
        (command,) = (line for line in printed.splitlines() if f"{program}.py" in line)
        assert "--train-splits 'a b-*' --dev-splits c" in command


def test_old_names_of_splits_are_taken_with_a_message(commands, bare, tmp_path):
    stage = ["--no-install", "--stage", "1", "--stop-stage", "1"]
    result = bare(*stage, "--train-parts", "a,b")
    assert "--train-parts is now --train-splits" in result.stderr
    assert "--train-splits 'a b'" in result.stdout
    recipe = tmp_path / "old"
    shutil.copytree(ROOT / "egs/mini_librispeech", recipe)
    conf = recipe / "recipe.conf"
    conf.write_text(conf.read_text().replace("_splits=", "_parts="))
    result = bare(*stage, "--recipe", str(recipe))
    assert "dev_parts is now dev_splits" in result.stderr
    assert "--train-splits 'train*' --dev-splits 'dev*'" in result.stdout


def test_learners_go_through_the_stages_of_their_teacher(commands, tmp_path):
    programs = ("prepare_teacher", "extract_embeddings", "train_quantizer", "dump_codes")
    programs += ("dump_hypotheses",)
    options = ["--stage", "4", "--stop-stage", "10", "--exp", "baseline,mvq"]
    options += ["--model.dim", "64", "--decoding.beam_size", "8", "--variant", "small"]
    printed = commands(*options)
    assert not any(f"{program}.py" in printed for program in programs)
    (tmp_path / "bin" / "learners").write_text("mvq baseline\n")
    printed = commands(*options)
    for program in programs:
        (command,) = (line for line in printed.splitlines() if f"{program}.py" in line)
        assert "--config egs/mini_librispeech/conf/mvq.yaml" in command
        assert "--exp-root exp/mini_librispeech --data-dir data/mini_librispeech" in command
        assert "--model.dim 64" in command
    # The teacher of other experiments keeps its name and its values, but for those of decoding.
    assert "stage 9: train baseline\n" in printed and "stage 9: train mvq-small\n" in printed
    commands_of = {
        (program, name): line
        for line in printed.splitlines()
        for program in ("train.py", "decode.py")
        for name in ("baseline", "mvq-small")
        if f"local/{program}" in line and f"--exp-dir exp/mini_librispeech/{name} " in f"{line} "
    }
    assert len(commands_of) == 4
    for (program, name), line in commands_of.items():
        assert ("--model.dim 64" in line) == (name == "mvq-small")
        assert ("--decoding.beam_size 8" in line) == (name == "mvq-small" or program == "decode.py")


def test_delays_are_measured_where_the_recipe_or_an_option_names_a_reference(commands, tmp_path):
    stage = ["--stage", "11", "--stop-stage", "11"]
    measured = "--delay-reference {} --data-dir data/mini_librispeech"
    assert measured.format("baseline") in commands(*stage)
    options = ["--delay-reference", "baseline-43", "--baseline=streaming"]
    printed = commands(*stage, *options)
    assert f"--baseline streaming {measured.format('baseline-43')}" in printed
    printed = commands(*stage, "--delay-reference", "none")
    assert printed.rstrip().endswith("local/results.py --exp-dir exp/mini_librispeech")


def test_remedies_name_the_options_of_the_run(commands, tmp_path):
    python = tmp_path / "bin" / "python"
    python.write_text('#!/bin/sh\necho "$MVQKD_RUN"\n')
    options = ["--data-dir=my data", "--strict", "--model.num-layers", "3"]
    printed = commands("--stage", "1", *options, "--stop-stage", "1")
    expected = r"--recipe egs/mini_librispeech --no-install --data-dir my\ data --strict"
    assert f"{ROOT}/run.sh {expected} --model.num-layers 3\n" in printed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_what_was_started_and_tells_how_to_go_on(tmp_path, number):
    """Sent to run.sh alone, as `kill` and batch systems do. The stage, which writes a checkpoint
    then, takes its time."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(
        "#!/bin/sh\n"
        'case "$1" in local/prepare_manifests.py) ;; *) exit 0 ;; esac\n'
        f"trap 'sleep 0.3; echo saved; exit 75' TERM\n"
        f"touch {tmp_path}/started\n"
        "while :; do sleep 0.05; done\n"
    )
    python.chmod(0o755)
    command = ["bash", str(ROOT / "run.sh"), "--no-install", "--stage", "1"]
    path = f"{python.parent}:{Path(sys.executable).parent}:/usr/bin:/bin"
    process = subprocess.Popen(
        command,
        env={"PATH": path, "HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Tests that run in the background of a shell inherit that it is ignored.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 30
    while not (tmp_path / "started").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert output.endswith("saved\n")
    assert f"stopped by {number.name}; the same command goes on" in errors
