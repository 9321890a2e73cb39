"""Files of weights that cannot be read."""

from __future__ import annotations

from pickle import UnpicklingError

UNREADABLE = (OSError, EOFError, RuntimeError, ValueError, KeyError, TypeError, UnpicklingError)
"""What torch and transformers end in when a file is truncated, a pointer of git-lfs, a web page, or
of another network."""


def why_unreadable(error: Exception) -> str:
    """The reason in a line."""
    # Of these torch says in many words that it may help to run what is in the file.
    if isinstance(error, UnpicklingError):
        return "it is damaged, or no file of tensors"
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
