"""Functions compiled by numba, whether or not there is a folder that keeps what was compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """A decorator like `numba.njit(cache=True, **options)`.

    Where neither the folder of the function's file nor the user's cache folder can be written, as
    in a container that mounts both read-only, every process compiles anew; NUMBA_CACHE_DIR can name
    a folder that can.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:
            return numba.njit(**options)(function)

    return decorate
