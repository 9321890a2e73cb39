"""Knowledge distillation for speech recognition: big teachers, small streaming-capable students.

A package (`mvqkd.models`, `mvqkd.losses`, ...) costs only what it imports itself: names of this
module are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mvqkd.checkpoints.load import load_model
    from mvqkd.recognizer import Recognizer

__version__ = "0.1.0"
__all__ = ["Recognizer", "load_model"]

_MODULES = {"Recognizer": "mvqkd.recognizer", "load_model": "mvqkd.checkpoints.load"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
