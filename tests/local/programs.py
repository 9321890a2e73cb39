"""Running a program of local/ in this process."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

LOCAL = Path(__file__).parents[2] / "local"


def run(program: str, *options: object, **constants: object) -> None:
    """Run a program with these options, and with other constants of its module."""
    main = runpy.run_path(str(LOCAL / f"{program}.py"))["main"]
    main.__globals__.update(constants)
    saved, sys.argv = sys.argv, [program, *map(str, options)]
    try:
        main()
    finally:
        sys.argv = saved
