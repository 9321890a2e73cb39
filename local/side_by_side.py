#!/usr/bin/env python3
"""Run commands side by side, on machines where each of them uses one core.

    python local/side_by_side.py --jobs 2 : baseline python local/train.py ... : mvq python ...

Each command follows a `:` and its name, which precedes every line that it prints. The next begins
when one ends. Where one fails, or a signal comes, the others are told to end (SIGTERM: a training
writes a checkpoint first), no further one begins, and the exit status is that of the first failure.
"""

from __future__ import annotations

import argparse
import sys
from itertools import groupby

from mvqkd.runtime.side_by_side import SideBySide


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=2, help="at the same time")
    parser.add_argument("commands", nargs=argparse.REMAINDER, metavar=": NAME COMMAND")
    options = parser.parse_args()
    words = groupby(options.commands, lambda word: word == ":")
    commands = [list(command) for is_colon, command in words if not is_colon]
    if options.jobs < 1 or options.commands[:1] != [":"] or any(len(c) < 2 for c in commands):
        parser.error("after each ':' come a name and a command; --jobs is at least 1")
    return SideBySide(options.jobs).run(commands)


if __name__ == "__main__":
    sys.exit(main())
