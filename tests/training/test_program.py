"""`local/train.py` end to end on a few seconds of noise."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mvqkd import load_model
from mvqkd.errors import UserError
from mvqkd.recipe.config.schema import ExperimentConfig, ModelConfig, TrainingConfig
from mvqkd.recipe.run_folder import check_folder, write_folder
from mvqkd.runtime.interruption import EXIT_INTERRUPTED
from mvqkd.training.metrics import read_metrics
from tests.data.conftest import prepare, write_part

ROOT = Path(__file__).resolve().parents[2]
SIZES = {
    "model.dim": 16,
    "model.num_layers": 1,
    "model.num_heads": 2,
    "model.feedforward_dim": 16,
    "model.conv_kernel": 3,
    "model.predictor_dim": 16,
    "model.joiner_dim": 16,
    "loss.ctc_scale": 0.2,
    "data.step_duration": 6,
    "data.num_buckets": 2,
    "data.num_workers": 0,
    "training.num_epochs": 2,
    "training.save_interval": 2,
    "training.log_interval": 2,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of prepared data."""
    root = tmp_path_factory.mktemp("corpus")
    write_part(root, "train-tiny")
    write_part(root, "dev-a", utterances=2)
    return prepare(root, tmp_path_factory.mktemp("data"), speeds=(1.0,))


def _start(data: Path, exp_dir: Path, *launcher: str, **options) -> subprocess.Popen[str]:
    values = {**SIZES, **{name.replace("__", "."): value for name, value in options.items()}}
    command = [sys.executable, *launcher, str(ROOT / "local" / "train.py")]
    command += ["--exp-dir", str(exp_dir), "--data-dir", str(data)]
    command += ["--train-splits", "train-*", "--dev-splits", "dev-a", "--vocab-size", "30"]
    command += [text for name, value in values.items() for text in (f"--{name}", str(value))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
    )


def _run(*arguments, **options) -> str:
    process = _start(*arguments, **options)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    return output


def _pretrained(exp_dir: Path) -> dict[str, torch.Tensor]:
    return torch.load(exp_dir / "pretrained.pt", weights_only=True)["model"]


@pytest.mark.slow
def test_trains_records_and_costs_nothing_again(data, tmp_path):
    output = _run(data, tmp_path)
    assert "training begins at step 0" in output
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {"config.yaml", "data.json", "environment.json", "pretrained.pt", "log"}
    assert names >= {"epoch-1.pt", "epoch-2.pt", "best-valid-loss.pt", "tensorboard"}
    assert names >= {"bpe.model", "tokens.txt"}
    (start,) = json.loads((tmp_path / "environment.json").read_text())
    assert start["command"].startswith(f"python {ROOT}/local/train.py --exp-dir {tmp_path} ")
    assert start["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    kinds = [line["kind"] for line in read_metrics(tmp_path / "log" / "metrics.jsonl")]
    assert kinds.count("valid") == 2
    assert "train" in kinds

    student = load_model(tmp_path)
    assert student.vocab_size == 30
    assert not student.training

    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert "trained already" in _run(data, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.slow
def test_goes_on_longer_with_other_batches_and_another_begins_with_its_weights(data, tmp_path):
    _run(data, tmp_path / "first", training__num_epochs=1)
    later = {"training__precision": "bfloat16", "data__batch_duration": 4}
    output = _run(data, tmp_path / "first", **later)
    for text in ("training.num_epochs: 1 -> 2", "data.batch_duration: 0.0 -> 4.0", "going on from"):
        assert text in output
    file = tmp_path / "first" / "pretrained.pt"
    assert torch.load(file, weights_only=True)["epoch"] == 2
    begun = f"begins with the weights of {file}"
    assert begun in _run(data, tmp_path / "second", training__init=file)
    output = _run(data, tmp_path / "third", training__init=file, model__joiner_dim=8)
    assert "joiner.output.weight: [30, 16] in the file, [30, 8] here" in output


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_killed_at_any_moment_it_ends_with_the_same_weights(data, tmp_path, seed):
    options = {"training__num_epochs": 6, "data__num_workers": 1}
    _run(data, tmp_path / "whole", **options)
    moments = random.Random(seed)
    for _ in range(4):
        process = _start(data, tmp_path / "killed", **options)
        deadline = time.monotonic() + 60
        # Kill soon after a checkpoint appears that was not there: in training, whatever the load.
        known = set((tmp_path / "killed").glob("checkpoint-*.pt"))
        while time.monotonic() < deadline and process.poll() is None:
            if set((tmp_path / "killed").glob("checkpoint-*.pt")) - known:
                break
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    _run(data, tmp_path / "killed", **options)
    whole, killed = _pretrained(tmp_path / "whole"), _pretrained(tmp_path / "killed")
    assert whole.keys() == killed.keys()
    assert all(torch.equal(value, killed[name]) for name, value in whole.items())


def children_of(pid: int) -> list[int]:
    """Processes that work for a training; those that only watch memory are none."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
            command = (status.parent / "cmdline").read_bytes()
        except OSError:  # ended meanwhile
            continue
        if int(fields[1]) == pid and b"resource_tracker" not in command:
            found.append(int(status.parent.name))
    return found


@pytest.mark.slow
def test_asked_to_stop_it_exits_with_75_and_goes_on(data, tmp_path):
    """Asked as batch systems ask: every process, workers first."""
    options = {"training__num_epochs": 40, "training__save_interval": 1000, "data__num_workers": 2}
    process = _start(data, tmp_path, **options)
    while not list(tmp_path.glob("epoch-1.pt")):
        time.sleep(0.05)
        assert process.poll() is None
    workers = children_of(process.pid)
    assert len(workers) >= 2
    for pid in [*workers, process.pid]:
        os.kill(pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == EXIT_INTERRUPTED, output
    assert "stopped by SIGTERM" in output
    assert "going on from" in _run(data, tmp_path, **options)


@pytest.mark.slow
def test_two_processes_by_torchrun(data, tmp_path):
    launcher = (str(ROOT / "local" / "torchrun.py"), "--standalone", "--nproc-per-node", "2")
    output = _run(data, tmp_path, *launcher)
    assert (tmp_path / "pretrained.pt").is_file()
    (start,) = json.loads((tmp_path / "environment.json").read_text())
    launched = "python -m torch.distributed.run --standalone --nproc-per-node 2"
    launched += f" {ROOT}/local/train.py --exp-dir "
    assert start["command"].startswith(launched)
    assert output.count("training begins") == 1
    assert "trained already" in _run(data, tmp_path, *launcher)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes are informed of their parent's end")
def test_killed_torchrun_takes_its_processes_along_and_the_same_command_goes_on(data, tmp_path):
    launcher = (str(ROOT / "local" / "torchrun.py"), "--standalone", "--nproc-per-node", "2")
    _run(data, tmp_path / "whole", *launcher)
    process = _start(data, tmp_path / "killed", *launcher, training__num_epochs=500)
    lock = tmp_path / "killed" / ".lock"
    _wait_for(lambda: list((tmp_path / "killed").glob("checkpoint-*.pt")))
    trainer = int(lock.read_text().split()[0])
    process.kill()  # torchrun alone, not the processes that it started
    process.wait()
    _wait_for(lambda: not Path(f"/proc/{trainer}").exists())
    shutil.rmtree(tmp_path / "killed")

    process = _start(data, tmp_path / "killed", *launcher)
    _wait_for(lambda: list((tmp_path / "killed").glob("checkpoint-*.pt")))
    process.kill()
    process.wait()
    _run(data, tmp_path / "killed", *launcher)
    expected, weights = _pretrained(tmp_path / "whole"), _pretrained(tmp_path / "killed")
    assert all(torch.equal(weights[name], value) for name, value in expected.items())


def _wait_for(condition) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _experiment(**training) -> ExperimentConfig:
    return ExperimentConfig(training=TrainingConfig(**training))


FEATURES = {"kind": "fbank", "bins": 80}
DATA = {
    **{"train": ["a"], "dev": ["b"], "features": FEATURES},
    **{"lang": "lang_bpe_30", "bpe_model_sha256": "00"},
}


@pytest.fixture
def lang(tmp_path_factory):
    """A folder of tokens."""
    folder = tmp_path_factory.mktemp("lang")
    for name in ("bpe.model", "tokens.txt"):
        (folder / name).write_text(f"the {name}")
    return folder


def test_other_configuration_is_refused_with_the_fields(tmp_path, lang):
    assert not check_folder(tmp_path, _experiment(), DATA)
    write_folder(tmp_path, _experiment(), DATA, lang)
    assert not check_folder(tmp_path, _experiment(), DATA)
    assert (tmp_path / "tokens.txt").read_text() == "the tokens.txt"
    (tmp_path / "checkpoint-1.pt").touch()
    other = ExperimentConfig(model=ModelConfig(dim=128), training=TrainingConfig(seed=7))
    with pytest.raises(UserError) as error:
        check_folder(tmp_path, other, {**DATA, "train": ["c"]})
    for text in ("model.dim: 256 -> 128", "training.seed: 42 -> 7", "data (train): ['a'] -> ['c']"):
        assert text in error.value.problem
    assert str(tmp_path) in error.value.remedy


def test_what_a_training_can_go_on_with_may_change_and_is_logged(tmp_path, lang, caplog):
    before = _experiment(num_epochs=3)
    write_folder(tmp_path, before, DATA, lang)
    (tmp_path / "pretrained.pt").touch()
    assert check_folder(tmp_path, before, DATA)
    after = _experiment(num_epochs=5, precision="bfloat16", keep_epochs=4)
    after.data.batch_duration = 100.0
    assert not check_folder(tmp_path, after, DATA)  # there are two epochs to train
    with caplog.at_level("INFO"):
        write_folder(tmp_path, after, DATA, lang)
    for text in (
        "training.num_epochs: 3 -> 5",
        "training.precision: 'float32' -> 'bfloat16'",
        "data.batch_duration: 0.0 -> 100.0",
    ):
        assert f"changed since the run before: {text}" in caplog.text
    # Killed before the end, it is not taken for the finished one of three epochs.
    (tmp_path / "checkpoint-1.pt").touch()
    assert not check_folder(tmp_path, after, DATA)
    with pytest.raises(UserError, match=r"training\.num_epochs: 5 -> 3"):
        check_folder(tmp_path, before, DATA)


def test_fields_that_change_no_weights_may_differ(tmp_path, lang):
    write_folder(tmp_path, _experiment(), DATA, lang)
    other = _experiment(log_interval=7, keep_epochs=2, valid_interval=5)
    other.decoding.beam_size = 8
    other.data.num_workers = 0
    assert not check_folder(tmp_path, other, DATA)
    (tmp_path / "pretrained.pt").touch()
    assert check_folder(tmp_path, other, DATA)
    other.decoding.avg = 3  # pretrained.pt is to be written again
    assert not check_folder(tmp_path, other, DATA)
