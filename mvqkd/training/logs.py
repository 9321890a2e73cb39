"""Where the words of a training go."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mvqkd.runtime.distributed import World
from mvqkd.storage.files import make_folder


class _LogFile(logging.FileHandler):
    """A full disk ends a training where it cannot do without it, at a checkpoint, and not here with
    a traceback."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Of what was raised in writing `record`."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


@contextmanager
def log_to(exp_dir: Path, world: World) -> Iterator[None]:
    """Write what is logged inside the block to `log/train.log`, too.

    Only the main process logs, the others report errors alone. Exceptions that leave the block are
    written with their traceback.
    """
    root = logging.getLogger()
    level = root.level
    make_folder(exp_dir / "log")
    name = "train.log" if world.is_main else f"train-rank{world.rank}.log"
    handler = _LogFile(exp_dir / "log" / name, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root.addHandler(handler)
    root.setLevel(logging.INFO if world.is_main else logging.ERROR)
    try:
        yield
    except Exception:
        # To the file alone: run_program prints to the terminal.
        record = root.makeRecord(
            root.name, logging.ERROR, __file__, 0, "training failed", (), sys.exc_info()
        )
        handler.emit(record)
        raise
    finally:
        root.removeHandler(handler)
        handler.close()
        root.setLevel(level)
