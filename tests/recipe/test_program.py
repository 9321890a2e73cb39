"""How programs end: their status and last words, alone and as processes of torchrun."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mvqkd.recipe.program import this_command
from tests.training.helpers import free_port


@pytest.mark.parametrize("launched", [False, True])
@pytest.mark.parametrize(
    ("work", "status", "words"),
    [
        ("print('done', end='')", 0, "done"),
        ("raise UserError('no corpus', remedy='run stage 0')", 1, "run stage 0"),
        ("raise KeyboardInterrupt", 130, "interrupted"),
        ("print('stopped', end=''); sys.exit(75)", 75, "stopped"),
        ("sys.exit('last words')", 1, "last words"),
        ("raise ZeroDivisionError", 1, "Traceback"),
        ("open('/nowhere/x')", 1, "Traceback"),
        (
            "raise OSError(28, 'No space left on device', 'x.pt')",
            1,
            "error: x.pt: No space left on device\n  remedy: make room",
        ),
        ("raise MemoryError", 1, "not enough memory\n  remedy: smaller batches"),
        ("import torch; torch.empty(2**50)", 1, "error: there is not enough memory"),
        ("logging.info('logged')", 0, "logged"),
    ],
)
def test_status_and_last_words(work: str, status: int, words: str, launched: bool) -> None:
    program = (
        "import logging, sys\n"
        "from mvqkd.errors import UserError\n"
        "from mvqkd.recipe.program import run_program\n"
        f"def main():\n    {work}\n"
        "run_program(main)"
    )
    environment = {**os.environ, **({"TORCHELASTIC_RUN_ID": "none"} if launched else {})}
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=60
    )
    assert result.returncode == status
    assert words in result.stdout + result.stderr


def test_an_ascii_terminal_gets_every_transcript() -> None:
    program = (
        "from mvqkd.recipe.program import run_program\nrun_program(lambda: print('caf\\u00e9'))"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, env=environment, timeout=60
    )
    assert (result.returncode, result.stdout) == (0, b"caf\\xe9\n")


def test_a_process_of_torchrun_leaves_its_threads_behind() -> None:
    program = (
        "import threading\n"
        "from mvqkd.recipe.program import run_program\n"
        "run_program(lambda: threading.Thread(target=threading.Event().wait).start())"
    )
    environment = {**os.environ, "TORCHELASTIC_RUN_ID": "none"}
    subprocess.run([sys.executable, "-c", program], env=environment, timeout=60, check=True)


@pytest.mark.parametrize(
    ("environment", "launcher"),
    [
        ({}, "python"),
        (
            {"LOCAL_WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "1"},
            "python -m torch.distributed.run --standalone --nproc-per-node 2",
        ),
        (
            {"LOCAL_WORLD_SIZE": "8", "GROUP_WORLD_SIZE": "2"},
            "python -m torch.distributed.run --nnodes 2 --rdzv-backend c10d --nproc-per-node 8 "
            "--rdzv-endpoint HOST:29500",
        ),
    ],
)
def test_the_command_that_is_recorded_repeats_the_run(monkeypatch, environment, launcher) -> None:
    monkeypatch.setattr(sys, "argv", ["local/train.py", "--train-splits", "train-*"])
    for name, value in {**environment, "TORCHELASTIC_RUN_ID": "none"}.items():
        if environment:
            monkeypatch.setenv(name, value)
    assert this_command() == f"{launcher} local/train.py --train-splits 'train-*'"


def test_a_process_whose_peer_ended_says_so() -> None:
    program = (
        "import sys, torch\n"
        "import torch.distributed as dist\n"
        "from mvqkd.errors import UserError\n"
        "from mvqkd.recipe.program import run_program\n"
        "def main():\n"
        "    rank, port = int(sys.argv[1]), sys.argv[2]\n"
        "    address = f'tcp://127.0.0.1:{port}'\n"
        "    dist.init_process_group('gloo', init_method=address, rank=rank, world_size=2)\n"
        "    dist.all_reduce(torch.zeros(1))\n"
        "    if rank:\n"
        "        raise UserError('the disk is full')\n"
        "    dist.all_reduce(torch.zeros(1))\n"
        "run_program(main)"
    )
    port = str(free_port())
    both = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(rank), port],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TORCHELASTIC_RUN_ID": "none", "RANK": str(rank)},
        )
        for rank in (0, 1)
    ]
    waiting, failed = (process.communicate(timeout=60)[1] for process in both)
    assert [process.returncode for process in both] == [1, 1]
    assert "error: the disk is full" in failed
    assert "another process of this program has ended" in waiting
    assert "Traceback" not in waiting + failed
