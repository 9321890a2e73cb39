"""What every program in local/ does around its work."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable
from typing import NoReturn

from mvqkd.errors import UserError


def run_program(main: Callable[[], None]) -> NoReturn:
    """Run `main` with logging on, and exit.

    A `UserError` is printed without traceback and exits with status 1, an interruption by Ctrl-C
    with 130; everything else is a defect and keeps its traceback.
    """
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"
    )
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)


def list_option(value: str | list[str]) -> list[str]:
    """Type of an option with names separated by commas or spaces; use with `nargs="+"`."""
    if isinstance(value, list):  # jsonargparse validates what it has parsed once more
        return value
    return value.replace(",", " ").split()


def flatten(lists: Iterable[list[str]]) -> list[str]:
    """The value of such an option."""
    return [name for names in lists for name in names]
