"""What every program in local/ does around its work."""

from __future__ import annotations

import io
import logging
import os
import shlex
import sys
import threading
import traceback
from collections.abc import Callable
from typing import NoReturn

from mvqkd.errors import UserError
from mvqkd.recipe.remedies import tell
from mvqkd.runtime.interruption import EXIT_INTERRUPTED as EXIT_INTERRUPTED
from mvqkd.runtime.interruption import handle_signals_on_own_stack
from mvqkd.storage.files import REFUSALS, cannot_write


def run_program(main: Callable[[], None]) -> NoReturn:
    """Run `main` with logging on, and exit.

    A `UserError`, a full disk or a folder that cannot be written to is printed without traceback
    and exits with status 1, an interruption by Ctrl-C with 130; everything else is a defect and
    keeps its traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # of an ASCII terminal: transcripts are not
            stream.reconfigure(errors="backslashreplace")
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"
    )
    threading.excepthook = _end_of_thread
    handle_signals_on_own_stack()
    status = 0
    try:
        main()
    except UserError as error:
        print(f"error: {tell(error)}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on", file=sys.stderr)
        status = 130
    except SystemExit as end:
        if not isinstance(end.code, int):  # None, or words that the interpreter prints
            raise
        status = end.code
    except Exception as error:
        if isinstance(error, OSError) and error.errno in REFUSALS:
            print(f"error: {tell(cannot_write(error))}", file=sys.stderr)
        elif _is_out_of_memory(error):
            print(f"error: {_OUT_OF_MEMORY}", file=sys.stderr)
            print(f"  ({' '.join(str(error).split())[:300]})", file=sys.stderr)
        elif _is_end_of_peer(error):
            print(f"error: {_END_OF_PEER}", file=sys.stderr)
        elif "TORCHELASTIC_RUN_ID" in os.environ:
            traceback.print_exc()
        else:
            raise
        status = 1
    if "TORCHELASTIC_RUN_ID" in os.environ:
        _leave_at_once(status)
    sys.exit(status)


def _is_out_of_memory(error: Exception) -> bool:
    """Of Python, of torch on a CPU or on a GPU; torch need not be imported for the question."""
    kind = type(error).__name__
    return kind in ("MemoryError", "OutOfMemoryError") or "DefaultCPUAllocator" in str(error)


def _is_end_of_peer(error: Exception) -> bool:
    """A collective cannot go on, since a process that takes part in it has ended."""
    words = ("closed by peer", "reset by peer", "remote process exited")
    return "RANK" in os.environ and any(phrase in str(error) for phrase in words)


_END_OF_PEER = UserError(
    "another process of this program has ended, without which this one cannot go on",
    remedy="its own message says why",
)

_OUT_OF_MEMORY = UserError(
    "there is not enough memory",
    remedy="smaller batches (--data.batch_duration, --decoding.max_duration), fewer processes "
    "(--nj, --data.num_workers) or a smaller model",
)


def _end_of_thread(arguments: threading.ExceptHookArgs) -> None:
    """Of a thread that writes curves: the program hears of it when it writes the next time."""
    error = arguments.exc_value
    if not (isinstance(error, OSError) and error.errno in REFUSALS):
        threading.__excepthook__(arguments)


def _leave_at_once(status: int) -> NoReturn:
    """End a process of torchrun without taking the interpreter down.

    One that fails must not wait for the others, which wait for it in a collective. And the threads
    of gloo survive destroy_process_group; one of them that wants the lock of an interpreter that is
    ending aborts the process ("terminate called without an active exception"), and a
    training that was done counts as failed. Seen once in some tens of trainings.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def this_command() -> str:
    """The command that repeats this run in the same folder, torchrun included if it was used."""
    launcher = ["python"]
    if "TORCHELASTIC_RUN_ID" in os.environ:
        processes, machines = os.environ["LOCAL_WORLD_SIZE"], os.environ["GROUP_WORLD_SIZE"]
        launcher = ["python", "-m", "torch.distributed.run"]
        launcher += ["--standalone", "--nproc-per-node", processes]
        if machines != "1":
            launcher[3:4] = ["--nnodes", machines, "--rdzv-backend", "c10d"]
            launcher += ["--rdzv-endpoint", "HOST:29500"]
    return shlex.join([*launcher, *sys.argv])
