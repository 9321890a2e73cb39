#!/usr/bin/env python3
"""torchrun whose processes have the last word.

    python local/torchrun.py --standalone --nproc-per-node 2 local/train.py --config ...

Takes torchrun's options. Where a process ends in an error, torchrun prints a traceback of its own
and a table below the message that says what to do; this program prints nothing there, and exits
with the status of that process. Of a process that could say nothing, it names the signal.
"""

from __future__ import annotations

import logging
import signal
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.run import parse_args, run

from mvqkd.errors import UserError


def main() -> int:
    options = parse_args(sys.argv[1:])
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        run(options)
    except ChildFailedError as error:
        failures = error.failures.values()
        # The others fail for want of it, or torchrun ends them.
        causes = [one for one in failures if one.exitcode != -signal.SIGTERM] or failures
        return max(map(_status, causes))
    except SignalException as error:
        return 128 + error.sigval
    return 0


def _status(failure: ProcessFailure) -> int:
    """Exit status as a shell has it, of a process that has said why, or cannot say any more."""
    if failure.exitcode >= 0:
        return failure.exitcode
    name = failure.signal_name()
    killed = UserError(
        f"process {failure.local_rank} (pid {failure.pid}) was ended by {name}",
        remedy="if it took too much memory (the system's log says so), smaller batches "
        "(--data.batch_duration) or fewer processes; the same command goes on"
        if name == signal.SIGKILL.name
        else "the same command goes on",
    )
    print(f"error: {killed}", file=sys.stderr)
    return 128 - failure.exitcode


if __name__ == "__main__":
    sys.exit(main())
