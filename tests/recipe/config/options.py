"""Running local/list_options.py in this process, as run.sh does."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
LIST_OPTIONS = ROOT / "local/list_options.py"


def list_options(*argv: str) -> int:
    """Its exit status."""
    return runpy.run_path(str(LIST_OPTIONS))["main"](list(argv))
